/** `prepare-data`: writes a published data set as train, dev and test files. */
import { Argument, type Command } from "commander";
import type { PrepareGsm8kOptions } from "../tasks/prepare-gsm8k.js";

export function addPrepareData(program: Command): void {
  program
    .command("prepare-data")
    .description("write a data set as train, dev and test files")
    .addArgument(new Argument("<name>", "which one").choices(["gsm8k"]))
    .option("--from <dir>", "folder with train.jsonl and test.jsonl (default: download them)")
    .option("--out <dir>", "folder to write", "data/gsm8k")
    .action(async (_name: string, options: PrepareGsm8kOptions) => {
      const { prepareGsm8k } = await import("../tasks/prepare-gsm8k.js");
      const { byteProgress } = await import("../terminal/progress-bar.js");
      const progress = byteProgress();
      const counts = await prepareGsm8k(options, progress).finally(progress.stop);
      const summary = Object.entries(counts).map(([name, count]) => `${name} ${count}`);
      process.stderr.write(`${options.out}: ${summary.join(", ")}\n`);
    });
}
