/** `compare`: evaluations against each other, or the runs of a study. */
import type { Command } from "commander";
import type { CompareOptions } from "../study/compare-results.js";

export function addCompare(program: Command): void {
  program
    .command("compare")
    .description("which of two or more evaluated models is better, if that can be said at all")
    .argument("[files...]", "checkpoints: results of eval on the same questions; or the directory of one study")
    .option("--a <files...>", "an algorithm: results of eval, one file for each training seed")
    .option("--b <files...>", "the other algorithm, seeds in the same order")
    .option("--json <file>", "write the figures as JSON too")
    .action(async (files: string[], options: CompareOptions) => {
      const { runCompare } = await import("../study/compare-results.js");
      runCompare(files, options);
    });
}
