/** `download-model`: shows progress on stderr and prints the model's folder on stdout. */
import type { Command } from "commander";

export function addDownloadModel(program: Command): void {
  program
    .command("download-model")
    .description("download a model into the Hugging Face cache and print its folder")
    .argument("[repo]", "owner/name on the hub", "Qwen/Qwen2.5-3B-Instruct")
    .option("--revision <name>", "branch, tag or commit", "main")
    .action(async (repo: string, { revision }: { revision: string }) => {
      const { downloadModel } = await import("../model/download.js");
      const { byteProgress } = await import("../terminal/progress-bar.js");
      const progress = byteProgress();
      const folder = await downloadModel(repo, { revision, progress }).finally(progress.stop);
      process.stderr.write(`${repo} is complete; its folder, for --model.path=… and --model:\n`);
      console.log(folder);
    });
}
