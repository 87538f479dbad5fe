/** `setup`: prepares what `npm ci` leaves out. */
import { type Command, Option } from "commander";
import type { SetupOptions } from "../machine/prepare.js";

export function addSetup(program: Command): void {
  program
    .command("setup")
    .description("prepare the native TensorFlow binding (quick when there is nothing to do)")
    .option("--cuda", "prepare learner and actors for NVIDIA GPUs instead: about 3.3 GB to download, once", false)
    .addOption(
      new Option("--actor-cuda <major>", "CUDA of ONNX Runtime's provider: 13 from PyPI (driver >= 580), 12 from NuGet")
        .choices(["12", "13"])
        .default("13"),
    )
    .option("--dry-run", "with --cuda: list what would be downloaded, and where to", false)
    .action(async (options: SetupOptions) => {
      const { setup } = await import("../machine/prepare.js");
      await setup(options);
    });
}
