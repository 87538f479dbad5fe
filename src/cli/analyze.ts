/** `analyze`: error classes of one evaluation, or of two and what changed between them. */
import type { Command } from "commander";
import type { AnalyzeOptions } from "../eval/analysis-text.js";

export function addAnalyze(program: Command): void {
  program
    .command("analyze")
    .description("why answers are wrong: error classes, slips of arithmetic, and what changed between two evaluations")
    .argument("<predictions>", "predictions.jsonl of eval, or the directory it lies in")
    .argument("[after]", "a second one, of the same questions")
    .option("--json <file>", "write the figures as JSON too")
    .action(async (before: string, after: string | undefined, options: AnalyzeOptions) => {
      const { runAnalyze } = await import("../eval/analysis-text.js");
      runAnalyze(before, after, options);
    });
}
