/** `export`: a model, checkpoint or adapter as a folder for other programs. */
import { type Command, Option } from "commander";
import type { ExportOptions } from "../engine/export-model.js";
import { MODEL, memorySize, modelOf, threadsOption } from "./options.js";

export function addExport(program: Command): void {
  program
    .command("export")
    .description(
      "write a model, checkpoint or adapter as a Hugging Face folder for other programs, and print its sha256s",
    )
    .argument("<model>", MODEL)
    .requiredOption("--out <dir>", "folder to make")
    .option("--merge", "put an adapter into its base (without: an adapter stays one, in PEFT's format)", false)
    .addOption(
      new Option("--dtype <name>", "of the stored weights (default: bf16; fp32 for an adapter that stays one)").choices(
        ["bf16", "fp32", "fp16"],
      ),
    )
    .addOption(
      new Option("--max-shard-size <size>", "larger weights become several files")
        .argParser(memorySize)
        .default(5e9, "5GB"),
    )
    .option("--force", "replace a model that lies in --out", false)
    .addOption(threadsOption())
    .action(async (model: string, options: ExportOptions) => {
      const { exportModel } = await import("../engine/export-model.js");
      const { byteProgress } = await import("../terminal/progress-bar.js");
      const progress = byteProgress();
      const files = await exportModel(await modelOf(model), options, progress).finally(progress.stop);
      // what `sha256sum --check` reads
      for (const { name, sha256 } of files) console.log(`${sha256}  ${name}`);
    });
}
