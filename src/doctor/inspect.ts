/** What this machine has for learner and actors. Only looks; gaps.ts says what is missing. */
import { execFile } from "node:child_process";
import { existsSync, lstatSync, readFileSync, readdirSync, realpathSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { deviceEnv, visibleGpus } from "../machine/devices.js";
import { nativeBindingPath, tensorFlowFolder } from "../machine/native-binding.js";
import { cudaLibraryPath, type CudaMajor } from "../machine/cuda-libraries.js";
import { smi, smiList } from "../machine/gpus.js";
import { actorLibraryPath, onnxVersion, providerInPlace } from "../machine/onnx-provider.js";
import type { Probe, ProbeRequest } from "./probe.js";

export type MachineFacts = Awaited<ReturnType<typeof inspectMachine>>;

/** What TensorFlow 2.21 opens before it registers a GPU (tsl/platform/default/dso_loader.cc). */
const TENSORFLOW_OPENS = shared(
  "cuda.so.1 cudart.so.12 cublasLt.so.12 cublas.so.12 cufft.so.11 cusparse.so.12 cusolver.so.11 cudnn.so.9",
);
/** What ONNX Runtime 1.30's CUDA provider is linked to or opens itself (cuDNN, cuFFT). */
const ONNX_OPENS: Record<CudaMajor, readonly string[]> = {
  "12": shared("cuda.so.1 cudart.so.12 cublasLt.so.12 cublas.so.12 curand.so.10 cufft.so.11 cudnn.so.9"),
  "13": shared("cuda.so.1 cudart.so.13 cublasLt.so.13 cublas.so.13 curand.so.10 cufft.so.12 cudnn.so.9"),
};
const run = promisify(execFile);

/** Kernels that are not in the libraries for this GPU are compiled at their first use. */
const PROBE_TIMEOUT_MS = 600_000;

export async function inspectMachine() {
  const provider = providerInPlace() ?? null;
  const visible = visibleGpus(process.env, smiList());
  const learnerPath = cudaLibraryPath("12");
  const actorPath = actorLibraryPath();
  const [learner, actors] = await Promise.all([
    probe({ role: "learner", libraries: TENSORFLOW_OPENS }, learnerPath),
    probe({ role: "actor", libraries: ONNX_OPENS[provider ?? "12"] }, actorPath),
  ]);
  return {
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cores: availableParallelism(),
    ramBytes: totalmem(),
    ...driverFacts(),
    /** Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES takes them. */
    visibleGpus: visible,
    learner: {
      build: tensorFlowBuild(),
      backend: learner.backend,
      passedOver: learner.passedOver,
      libraryPath: learnerPath,
      libraries: learner.libraries,
    },
    actors: {
      onnxruntime: onnxVersion(),
      /** CUDA that the provider in place was built for; null when there is none. */
      provider,
      providers: actors.providers,
      libraryPath: actorPath,
      libraries: actors.libraries,
    },
  };
}

interface DriverFacts {
  /** Version of NVIDIA's kernel module; null without one. */
  readonly driver: string | null;
  readonly gpus: readonly {
    readonly name: string;
    readonly memoryMiB: number | null;
    /** Default, Exclusive_Process or Prohibited, as nvidia-smi says; null where it says nothing. */
    readonly computeMode: string | null;
  }[];
}

function driverFacts(): DriverFacts {
  const rows = smi(["--query-gpu=name,memory.total,driver_version,compute_mode", "--format=csv,noheader,nounits"]);
  if (rows !== null) {
    const lines = rows.trim().split("\n");
    const gpus = lines.map((row) => row.split(",").map((cell) => cell.trim()));
    return {
      driver: gpus[0]?.[2] ?? null,
      gpus: gpus.map(([name, memory, , computeMode]) => ({
        name: name ?? "?",
        memoryMiB: Number(memory) || null,
        computeMode: computeMode ?? null,
      })),
    };
  }
  // the kernel module without its tools, as in some containers
  const proc = "/proc/driver/nvidia";
  if (!existsSync(`${proc}/version`)) return { driver: null, gpus: [] };
  const version = /Kernel Module.*?\s(\d+\.[\d.]+)/.exec(readFileSync(`${proc}/version`, "utf8"))?.[1] ?? "unknown";
  const cards = existsSync(`${proc}/gpus`) ? readdirSync(`${proc}/gpus`) : [];
  const models = cards.map(
    (card) => /Model:\s*(.+)/.exec(readFileSync(`${proc}/gpus/${card}/information`, "utf8"))?.[1],
  );
  return { driver: version, gpus: models.map((name) => ({ name: name ?? "?", memoryMiB: null, computeMode: null })) };
}

/** Which TensorFlow is in place; "own" is somebody's own build. */
function tensorFlowBuild(): "cpu" | "cuda" | "own" | null {
  const path = nativeBindingPath();
  if (!existsSync(path)) return null;
  if (!lstatSync(path).isSymbolicLink()) return "own";
  return realpathSync(path).startsWith(realpathOf(tensorFlowFolder("cuda"))) ? "cuda" : "cpu";
}

const realpathOf = (path: string): string => (existsSync(path) ? realpathSync(path) : path);

/** Runs probe.js on the first GPU's libraries. If it crashes, stderr's last line is the reason. */
async function probe(request: ProbeRequest, libraryPath: readonly string[]): Promise<Probe> {
  const script = fileURLToPath(new URL("./probe.js", import.meta.url));
  const { CUDA_VISIBLE_DEVICES: devices } = process.env;
  const env = { ...process.env, ...deviceEnv(devices ?? "0", libraryPath, process.env), CUDA_VISIBLE_DEVICES: devices };
  const ended = run(process.execPath, [script, JSON.stringify(request)], { env, timeout: PROBE_TIMEOUT_MS });
  const { stdout, stderr, code } = await ended.then(
    (output) => ({ ...output, code: 0 }),
    (failure: unknown) => failure as { stdout: string; stderr: string; code: unknown },
  );
  const last = stdout.trim().split("\n").at(-1) ?? "";
  if (code !== 0 || last === "") {
    const reason = `the ${request.role}'s libraries end the process: ${stderr.trim().split("\n").at(-1) ?? ""}`;
    return { libraries: [], backend: null, passedOver: [reason], providers: { cpu: reason, cuda: reason } };
  }
  const answer = JSON.parse(last) as Probe;
  // ONNX Runtime throws a general message and writes the loader's reason to stderr
  const reason = /with error: (.+)/.exec(stderr)?.[1]?.trim();
  const { cuda } = answer.providers;
  return typeof cuda === "string" && reason !== undefined
    ? { ...answer, providers: { ...answer.providers, cuda: reason } }
    : answer;
}

function shared(names: string): string[] {
  return names.split(" ").map((name) => `lib${name}`);
}
