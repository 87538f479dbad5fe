/** Prepares what `npm ci` leaves out. Quick and silent when there is nothing to do. */
import { existsSync } from "node:fs";
import { UserError, messageOf } from "../errors.js";
import { prepareNativeBinding, TENSORFLOW_WHEELS, tensorFlowFolder } from "./native-binding.js";
import { cudaWheels, prepareCudaLibraries, wheelFolder, type CudaMajor } from "./cuda-libraries.js";
import { ONNX_CUDA_13, onnxVersion, prepareOnnxProvider, providerFolder } from "./onnx-provider.js";
import { findPip, type Wheel } from "./wheels.js";

export interface SetupOptions {
  readonly cuda: boolean;
  /** CUDA that ONNX Runtime's provider is built for. */
  readonly actorCuda: CudaMajor;
  readonly dryRun: boolean;
}

/** Prepares native TensorFlow, else wasm serves. @throws UserError when a `cuda` part fails */
export async function setup({ cuda, actorCuda, dryRun }: SetupOptions): Promise<void> {
  if (cuda) return dryRun ? listCuda(actorCuda) : setupCuda(actorCuda);
  const binding = await prepareNativeBinding(tell);
  if (!binding.ok)
    tell(`TensorFlow could not be prepared, so the learner runs on wasm, about 4x slower; ${binding.reason}`);
  else if (binding.built) tell("TensorFlow is ready");
}

const tell = (line: string): void => console.error(line);

async function setupCuda(actorCuda: CudaMajor): Promise<void> {
  const python = await findPip();
  if (python === undefined)
    throw new UserError("setup --cuda needs python3 with pip (Debian: apt install python3-pip).");
  const failures: string[] = [];
  const attempt = (what: string, work: () => Promise<void>) =>
    work().catch((error: unknown) => void failures.push(`${what}: ${messageOf(error)}`));
  await attempt("TensorFlow's CUDA build", async () => {
    const binding = await prepareNativeBinding(tell, "cuda");
    if (!binding.ok) throw new Error(binding.reason);
  });
  await attempt("ONNX Runtime's CUDA provider", () => prepareOnnxProvider(python, actorCuda, tell));
  for (const major of new Set<CudaMajor>(["12", actorCuda]))
    await attempt(`CUDA ${major}'s libraries`, () => prepareCudaLibraries(python, major, tell));
  if (failures.length > 0) {
    throw new UserError(`${failures.join("\n")}\nWhat was prepared is kept; run the command again to go on.`);
  }
  tell("CUDA is prepared; node dist/cli.js doctor --cuda says whether this machine can use it.");
}

function listCuda(actorCuda: CudaMajor): void {
  const line = ({ name, version, megabytes }: Wheel, folder: string) =>
    `${existsSync(folder) ? "present" : "PyPI   "}  ${`${name}==${version}`.padEnd(36)}  ${String(megabytes).padStart(4)} MB  ${folder}`;
  const provider = providerFolder(actorCuda);
  console.log(
    [
      line(TENSORFLOW_WHEELS.cuda, tensorFlowFolder("cuda")),
      actorCuda === "13"
        ? line(ONNX_CUDA_13, provider)
        : `${existsSync(provider) ? "present" : "NuGet  "}  ${`Microsoft.ML.OnnxRuntime.Gpu.Linux ${onnxVersion()}`.padEnd(36)}           ${provider}`,
      ...[...new Set<CudaMajor>(["12", actorCuda])].flatMap((major) =>
        cudaWheels(major).map((wheel) => line(wheel, wheelFolder(major, wheel))),
      ),
    ].join("\n"),
  );
}
