/** `report`: a study or a run as one page, and prints the page's path. */
import type { Command } from "commander";
import type { ReportOptions } from "../study/report/write-report.js";

export function addReport(program: Command): void {
  program
    .command("report")
    .description("a study or a run as one page: report.html, with report.md, report.json and the charts beside it")
    .argument("<dir>", "directory of a study or of a run")
    .option("--out <dir>", "folder to write to (default: the directory itself)")
    .action(async (dir: string, options: ReportOptions) => {
      const { writeReport } = await import("../study/report/write-report.js");
      console.log(writeReport(dir, options));
    });
}
