/** What can be asked of a run directory. Options are parsed here; a command's module is loaded only when it runs. */
import type { Command } from "commander";

export function addRunCommands(program: Command): void {
  program
    .command("trajectories")
    .description("the completions of a run with rewards, advantages and weight versions, as JSONL")
    .argument("<run_dir>", "directory of a run")
    .action(async (runDir: string) => {
      const { trajectories } = await import("../commands/trajectories.js");
      await trajectories(runDir);
    });
}
