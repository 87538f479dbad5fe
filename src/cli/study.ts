/** `study`: the whole experiment of a study file. */
import type { Command } from "commander";
import type { StudyOptions } from "../study/run-study.js";

export function addStudy(program: Command): void {
  program
    .command("study")
    .description("the whole experiment: baseline, every algorithm with every seed, evaluation, comparison; resumable")
    .argument("<file>", "YAML, such as configs/study-starter.yaml")
    .option("--out <dir>", "directory of the study (default: studies/<name>)")
    .option("--dry-run", "print the steps and their commands, and run nothing")
    .action(async (file: string, options: StudyOptions) => {
      const { runStudy } = await import("../study/run-study.js");
      const { writeReport } = await import("../study/report/write-report.js");
      process.exitCode = await runStudy(file, options, writeReport);
    });
}
