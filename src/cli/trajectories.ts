/** `trajectories`: the journal of a run as JSON lines. */
import type { Command } from "commander";

export function addTrajectories(program: Command): void {
  program
    .command("trajectories")
    .description("the completions of a run with rewards, advantages and weight versions, as JSONL")
    .argument("<run_dir>", "directory of a run")
    .action(async (runDir: string) => {
      const { trajectories } = await import("../run/journal-lines.js");
      await trajectories(runDir);
    });
}
