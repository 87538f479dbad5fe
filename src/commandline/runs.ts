/** What can be asked of a run directory. Options are parsed here; a command's module is loaded only when it runs. */
import type { Command } from "commander";
import type { StatusOptions } from "../commands/status.js";

export function addRunCommands(program: Command): void {
  program
    .command("trajectories")
    .description("the completions of a run with rewards, advantages and weight versions, as JSONL")
    .argument("<run_dir>", "directory of a run")
    .action(async (runDir: string) => {
      const { trajectories } = await import("../commands/trajectories.js");
      await trajectories(runDir);
    });

  program
    .command("status")
    .description("where a run or a study is and whether it is well, from its files; exit code 1 when it is not")
    .argument("<dir>", "directory of a run or of a study")
    .option("--watch", "again and again until it ends", false)
    .option("--json", "print JSON", false)
    .action(async (dir: string, options: StatusOptions) => {
      const { runStatus } = await import("../commands/status.js");
      if (!(await runStatus(dir, options))) process.exitCode = 1;
    });
}
