/** `status`: where a run or a study is and whether it is well. */
import type { Command } from "commander";
import type { StatusOptions } from "../study/status-text.js";

export function addStatus(program: Command): void {
  program
    .command("status")
    .description("where a run or a study is and whether it is well, from its files; exit code 1 when it is not")
    .argument("<dir>", "directory of a run or of a study")
    .option("--watch", "again and again until it ends", false)
    .option("--json", "print JSON", false)
    .action(async (dir: string, options: StatusOptions) => {
      const { showStatus } = await import("../study/status-text.js");
      if (!(await showStatus(dir, options))) process.exitCode = 1;
    });
}
