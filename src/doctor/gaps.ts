/** What this machine lacks for CUDA, in the order in which to mend it, each with a cure. Pure. */
import type { MachineFacts } from "./inspect.js";

export interface CudaGap {
  readonly side: "both" | "learner" | "actors";
  readonly missing: string;
  readonly cure: string;
}

/** Oldest drivers for CUDA 12.x and 13.x (NVIDIA, CUDA Compatibility, minor versions). */
const OLDEST_DRIVER = { "12": 525, "13": 580 } as const;

const SETUP = "node dist/cli.js setup --cuda";
const LOOK = "node dist/cli.js doctor --json has all that was found";

export function cudaGaps(machine: MachineFacts): CudaGap[] {
  const { driver, gpus, visibleGpus, learner, actors } = machine;
  const gaps: CudaGap[] = [];
  const lacks = (side: CudaGap["side"], missing: string, cure: string) => gaps.push({ side, missing, cure });
  if (machine.platform !== "linux x64") {
    lacks("both", `CUDA is set up on Linux x64 only, this is ${machine.platform}`, "use another machine");
    return gaps;
  }
  if (driver === null)
    lacks(
      "both",
      "no NVIDIA driver (neither nvidia-smi nor /proc/driver/nvidia)",
      "run on a machine with a GPU (SLURM: ask for one with --gpus=1; Apptainer: exec --nv), or install the driver",
    );
  else if (gpus.length === 0) lacks("both", "a driver and no GPU", "SLURM: ask for one with --gpus=1");
  else if (visibleGpus.length === 0)
    lacks("both", "CUDA_VISIBLE_DEVICES hides every GPU", "unset CUDA_VISIBLE_DEVICES, or name a GPU in it");
  const exclusive = gpus.find(({ computeMode }) => computeMode !== null && computeMode !== "Default");
  if (exclusive !== undefined)
    lacks(
      "both",
      `${exclusive.name} is in compute mode ${exclusive.computeMode}: learner and actor are two processes, and it takes one at most`,
      "nvidia-smi -c DEFAULT (as root), or NVIDIA MPS (docs/slurm.md)",
    );
  const age = driver === null ? NaN : Number.parseInt(driver, 10);
  if (age < OLDEST_DRIVER["12"])
    lacks(
      "both",
      `driver ${driver} is too old for CUDA 12, which needs ${OLDEST_DRIVER["12"]} or newer`,
      "update the driver",
    );
  else if (actors.provider === "13" && age < OLDEST_DRIVER["13"])
    lacks(
      "actors",
      `driver ${driver} is too old for CUDA 13, which needs ${OLDEST_DRIVER["13"]} or newer`,
      "update the driver; or put NVIDIA's cuda-compat-13 libraries first in LD_LIBRARY_PATH; or take a provider built for CUDA 12 (docs/cuda.md)",
    );

  if (learner.build === null || learner.build === "cpu")
    lacks("learner", learner.build === null ? "no native TensorFlow" : "TensorFlow's CPU build is in place", SETUP);
  if (learner.backend?.usesGpu !== true) addLibraries("learner", learner.libraries);
  if (learner.backend?.usesGpu !== true && gaps.every(({ side }) => side === "actors"))
    lacks(
      "learner",
      `TensorFlow takes no GPU (${learner.passedOver[0] ?? learner.backend?.library ?? "no backend"})`,
      LOOK,
    );

  if (actors.provider === null)
    lacks("actors", "ONNX Runtime's CUDA provider is not installed (libonnxruntime_providers_cuda.so)", SETUP);
  const reason = actors.providers["cuda"];
  if (reason !== null) addLibraries("actors", actors.libraries);
  if (reason !== null && gaps.every(({ side }) => side === "learner"))
    lacks("actors", `ONNX Runtime's CUDA provider does not load (${reason})`, LOOK);
  return gaps;

  /** Names the driver's library, and the first of the others: the rest mostly follows from it. */
  function addLibraries(side: CudaGap["side"], libraries: MachineFacts["learner"]["libraries"]): void {
    const lost = libraries.filter(({ error, name }) => error !== null && name !== "libcuda.so.1");
    const [first] = lost;
    if (first !== undefined)
      lacks(side, `${first.error}${lost.length > 1 ? ` (and ${lost.length - 1} more)` : ""}`, SETUP);
    const driverLibrary = libraries.find(({ error, name }) => error !== null && name === "libcuda.so.1");
    if (driverLibrary !== undefined && driver !== null)
      lacks(
        side,
        String(driverLibrary.error),
        "Apptainer: exec --nv brings the driver's libraries in; else install the driver's CUDA part (libcuda1)",
      );
  }
}

export const cpuWorks = ({ learner, actors }: MachineFacts): boolean =>
  learner.backend !== null && actors.providers["cpu"] === null;
