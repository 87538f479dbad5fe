/** `replay`: an iteration of a run trained once more from its journal, and compared. */
import type { Command } from "commander";
import type { Agreement, ReplayOptions } from "../learner/replay-update.js";
import { atLeast, threadsOption } from "./options.js";

const words: Readonly<Record<Agreement, string>> = {
  equal: "equal in every bit",
  rounding: "equal as far as float32 allows",
  differs: "DIFFERS",
  "not recorded": "not recorded",
};

export function addReplay(program: Command): void {
  program
    .command("replay")
    .description("an iteration trained once more from the journal and compared; exit code 1 when it differs")
    .argument("<run_dir>", "directory of a run; nothing is written into it")
    .requiredOption("--step <n>", "the iteration", atLeast(1))
    .option("--model <dir>", "the run's model folder, where it has moved")
    .addOption(threadsOption())
    .action(async (runDir: string, options: ReplayOptions) => {
      const { replay } = await import("../learner/replay-update.js");
      const { rows, notes } = await replay(runDir, options);
      for (const note of notes) console.log(note);
      const table = [
        ["", "recorded", "replayed", ""],
        ...rows.map(({ name, was, is, how }) => [name, was, is, words[how]]),
      ];
      const widths = [0, 1, 2].map((column) => Math.max(...table.map((row) => row[column]!.slice(0, 24).length)));
      for (const row of table)
        console.log(
          row
            .map((cell, i) => (i < 3 ? cell.slice(0, 24).padEnd(widths[i]!) : cell))
            .join("  ")
            .trimEnd(),
        );
      if (rows.some(({ how }) => how === "differs")) process.exitCode = 1;
    });
}
