/** The only place that loads TensorFlow.js: the first of TensorFlow, wasm, cpu that computes. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import util from "node:util";
import { messageOf, UserError } from "../../errors.js";
import { nativeBindingPath } from "../../machine/native-binding.js";
import { type MatmulPrecision, multipliesBfloat16, setMatmulPrecision } from "./products.js";
import { overrideWasmKernels } from "./wasm-kernels.js";

/** Take it from `startBackend`, never by an import of your own. */
export type TF = typeof import("@tensorflow/tfjs");

export type BackendName = "tensorflow" | "wasm" | "cpu";

export interface BackendInfo {
  name: BackendName;
  usesGpu: boolean;
  matmul: MatmulPrecision;
  /** What does the arithmetic, with its version. */
  library: string;
  /** Why each better backend was passed over; empty when the first one served. */
  why: string[];
  tf: TF;
}

/** What trains, in words: backend, library and how products are rounded. */
export const describeBackend = ({ name, library, matmul }: BackendInfo): string =>
  `${name} (${library}${matmul === "bfloat16" ? ", bfloat16 products" : ""})`;

// tfjs-node-gpu requires `@tensorflow/tfjs` as CommonJS: this gives the same instance.
const require = createRequire(import.meta.url);

const FASTEST_FIRST: BackendName[] = ["tensorflow", "wasm", "cpu"];

export type BackendChoice = "auto" | BackendName;

/**
 * Starts the first backend that passes a self-test: "auto" tries all, a name that one alone.
 * @param threads of TensorFlow, 0 = its choice; from a worker thread only under `env: SHARE_ENV`
 * @param matmul "auto" is bfloat16 where TensorFlow computes on a processor that multiplies it
 * @throws UserError when none (or not the one named) can be used, with each one's reason
 */
export async function startBackend(
  choice: BackendChoice,
  threads: number,
  matmul: MatmulPrecision | "auto" = "float32",
): Promise<BackendInfo> {
  const why: string[] = [];
  for (const name of choice === "auto" ? FASTEST_FIRST : [choice]) {
    try {
      const started = await start[name](threads);
      checkArithmetic(started.tf);
      const pays = name === "tensorflow" && !started.usesGpu && multipliesBfloat16();
      const precision = matmul === "auto" ? (pays ? "bfloat16" : "float32") : matmul;
      if (precision === "bfloat16" && name !== "tensorflow")
        throw new Error("learner.matmul=bfloat16 needs TensorFlow; auto takes it where it can be had");
      setMatmulPrecision(precision);
      return { name, ...started, matmul: precision, why };
    } catch (error) {
      why.push(`${name}: ${messageOf(error)}`);
    }
  }
  const wanted = choice === "auto" ? "any backend of TensorFlow.js" : `learner.backend=${choice}`;
  const cure = choice === "auto" ? "" : "; learner.backend=auto takes the next best";
  throw new UserError(`${wanted} cannot be used (${why.join("; ")})${cure}`);
}

type Started = Omit<BackendInfo, "name" | "why" | "matmul">;

const start: Record<BackendName, (threads: number) => Promise<Started>> = {
  async tensorflow(threads) {
    if (!existsSync(nativeBindingPath()))
      throw new Error("its native binding is not there; `npm run setup` prepares it");
    if (threads > 0) process.env["TF_NUM_INTRAOP_THREADS"] = String(threads);
    if (threads > 0) process.env["TF_NUM_INTEROP_THREADS"] = "1"; // eager operations run one after the other anyway
    process.env["TF_CPP_MIN_LOG_LEVEL"] ??= "2"; // errors only: the rest are banners
    // oneDNN makes a step 1.2 times faster; its banner on stderr cannot be silenced.
    process.env["TF_ENABLE_ONEDNN_OPTS"] ??= "1";
    process.env["TF_FORCE_GPU_ALLOW_GROWTH"] ??= "true"; // the actors live on the same GPU
    restoreRemovedUtil();
    const tf = loadTf();
    require("@tensorflow/tfjs-node-gpu"); // registers the backend with the same tfjs-core
    await select(tf, "tensorflow");
    const backend = tf.backend() as unknown as { isUsingGpuDevice: boolean; binding: { TF_Version: string } };
    return { usesGpu: backend.isUsingGpuDevice, library: `libtensorflow ${backend.binding.TF_Version}`, tf };
  },

  async wasm() {
    const tf = loadTf();
    const { version_wasm: version } =
      require("@tensorflow/tfjs-backend-wasm") as typeof import("@tensorflow/tfjs-backend-wasm");
    tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // its threads are web workers, which Node does not have
    await select(tf, "wasm");
    overrideWasmKernels(tf);
    return { usesGpu: false, library: `tfjs-backend-wasm ${version}`, tf };
  },

  async cpu() {
    const tf = loadTf();
    await select(tf, "cpu");
    return { usesGpu: false, library: `tfjs-backend-cpu ${tf.version["tfjs-backend-cpu"]}`, tf };
  },
};

function loadTf(): TF {
  const tf = require("@tensorflow/tfjs") as TF;
  tf.env().set("PROD", true); // no advertisement of other backends on the console
  return tf;
}

async function select(tf: TF, name: BackendName): Promise<void> {
  if (!(await tf.setBackend(name))) throw new Error("it could not be initialised");
}

/** tfjs-node 4.22 calls two functions that Node 23 removed. */
function restoreRemovedUtil(): void {
  const present = util as unknown as Record<string, unknown>;
  present["isNullOrUndefined"] ??= (value: unknown) => value === null || value === undefined;
  present["isArray"] ??= (value: unknown) => Array.isArray(value);
}

/**
 * One matrix product and one gradient of a gather, against values worked by hand: what loads and
 * cannot do these would fail, or train on nonsense, much later.
 *
 * [1 2 3]   [ 7  8]   [ 58  64]
 * [4 5 6] · [ 9 10] = [139 154];  d/dx Σ w·x[0,2,0] with w = (1,10,100) is (101, 0, 10)
 *           [11 12]
 */
function checkArithmetic(tf: TF): void {
  const found = tf.tidy(() => {
    const product = tf.matMul(tf.tensor2d([1, 2, 3, 4, 5, 6], [2, 3]), tf.tensor2d([7, 8, 9, 10, 11, 12], [3, 2]));
    const weighted = (x: import("@tensorflow/tfjs").Tensor) =>
      tf.sum(tf.mul(tf.gather(x, tf.tensor1d([0, 2, 0], "int32")), tf.tensor1d([1, 10, 100])));
    const gradient = tf.grad(weighted)(tf.tensor1d([5, 6, 7]));
    return [...product.dataSync(), ...gradient.dataSync()];
  });
  const expected = [58, 64, 139, 154, 101, 0, 10];
  if (found.some((value, i) => value !== expected[i]))
    throw new Error(`self-test gave ${found.join(" ")}, expected ${expected.join(" ")}`);
}
