/** `--device` of commands without a learner; on a GPU the command starts once more, as a child. */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { UserError } from "../errors.js";
import { smiList } from "../machine/gpus.js";
import { heedSignals } from "../run/children.js";
import { actorLibraryPath } from "../machine/onnx-provider.js";
import { deviceEnv, visibleGpus } from "../machine/devices.js";

export const deviceChoices = ["auto", "cpu", "cuda"] as const;
export type DeviceChoice = (typeof deviceChoices)[number];

const PREPARED = "FINELLAMA_PREPARED_DEVICE";

/** Runs a command here on the CPU, else in a child. @throws UserError when asked-for CUDA fails */
export async function onDevice(
  asked: DeviceChoice,
  run: (device: "cpu" | "cuda") => Promise<void>,
  argv: readonly string[] = process.argv.slice(1),
): Promise<void> {
  if (asked === "cpu") return run("cpu");
  if (process.env[PREPARED] === "cuda") return run("cuda");
  const [gpu] = visibleGpus(process.env, smiList());
  if (asked === "auto" && gpu === undefined) return run("cpu");
  const { whyNoCuda } = await import("../doctor/describe.js");
  const obstacle = await whyNoCuda(["actors"]);
  if (obstacle !== null) {
    if (asked === "cuda")
      throw new UserError(`--device cuda: CUDA cannot be used on this machine.\n${obstacle.report}`);
    process.stderr.write(`There is a GPU, and CUDA cannot be used (${obstacle.missing}): computing on the CPU.\n`);
    return run("cpu");
  }
  const env = deviceEnv(gpu!, actorLibraryPath(), process.env);
  process.exitCode = await startAgain(argv, { ...process.env, ...env, [PREPARED]: "cuda" });
}

/** Ctrl-C reaches only this process, which passes it on: the child leads a group of its own. */
async function startAgain(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const child = spawn(process.execPath, argv, { env, detached: true, stdio: ["inherit", "inherit", "inherit", "ipc"] });
  const pass = (signal: NodeJS.Signals): void => void child.kill(signal);
  const signals = heedSignals(pass, pass);
  try {
    return await new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code, signal) => resolve(code ?? 128 + constants.signals[signal!]));
    });
  } finally {
    signals.release();
  }
}
