/** First contact with a device, smallest first: each step is compared with the CPU, and timed. */
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { initialWeights } from "../learner/supervised.js";
import { cudaLibraryPath } from "../machine/cuda-libraries.js";
import { deviceEnv, visibleGpus } from "../machine/devices.js";
import { smiList } from "../machine/gpus.js";
import { actorLibraryPath } from "../machine/onnx-provider.js";
import { parseModelConfig } from "../model/config.js";
import { weightLayout } from "../model/layout.js";
import { writeSafetensors } from "../model/safetensors/write.js";
import type { ActorSmoke, LearnerSmoke, SmokeRequest } from "./smoke-child.js";

const run = promisify(execFile);

/** Kernels that are not in the libraries for this GPU are compiled at their first use. */
const TIMEOUT_MS = 600_000;

/** Two layers each: small, then Qwen2.5-3B's width, whose kernels are the real ones. */
const SIZES = {
  small: { hidden_size: 128, intermediate_size: 256, num_attention_heads: 4, vocab_size: 1000 },
  "Qwen2.5-3B's width": { hidden_size: 2048, intermediate_size: 11_008, num_attention_heads: 16, vocab_size: 151_936 },
} as const;

/** Largest differences to the CPU in float32: nats of a token, and share of the gradient's norm. */
const MAX_GAP = { logprob: 0.02, gradient: 0.01 };

/** What a failure means, by what it says. */
const CURES: readonly (readonly [RegExp, string])[] = [
  [
    /out of memory|OOM|RESOURCE_EXHAUSTED|failed to allocate/i,
    "less at once: actors.max_rows, tokens_per_microbatch; see plan",
  ],
  [/no kernel image|unsupported.*compute capability/i, "the GPU is older or newer than the libraries: docs/cuda.md"],
  [/misaligned|error 716/i, "a kernel of this ONNX Runtime fails on this GPU: actors.dtype=float32, and report it"],
  [/cannot open shared object|driver version is insufficient/i, "doctor --cuda names what is missing"],
  [
    /timed out|SIGTERM|ETIMEDOUT/i,
    "kernels were compiled for ten minutes: keep CUDA_CACHE_PATH on a disk that stays, and try again",
  ],
  [/expected a GPU/, "doctor --cuda says why TensorFlow takes none"],
];

export interface SmokeOptions {
  readonly device: "cpu" | "cuda";
  readonly sizes?: readonly (keyof typeof SIZES)[] | undefined;
  readonly rows?: number;
}

/** @returns whether all that was tried is right @param tell takes each line as it is found */
export async function smoke(
  { device, sizes, rows = 64 }: SmokeOptions,
  tell: (line: string) => void,
): Promise<boolean> {
  let isRight = true;
  for (const size of sizes ?? (Object.keys(SIZES) as (keyof typeof SIZES)[])) {
    const folder = mkdtempSync(join(tmpdir(), "finellama-smoke-"));
    try {
      writeModel(folder, SIZES[size]);
      tell(`${size}, 2 layers, LoRA`);
      for (const check of [checkActor, checkLearner]) isRight = (await check(folder, device, rows, tell)) && isRight;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
    if (!isRight) break; // the larger one would say the same, later
  }
  return isRight;
}

function writeModel(folder: string, size: (typeof SIZES)[keyof typeof SIZES]): void {
  const json = {
    model_type: "qwen2",
    ...size,
    num_hidden_layers: 2,
    num_key_value_heads: 2,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    tie_word_embeddings: true,
  };
  writeFileSync(join(folder, "config.json"), JSON.stringify(json));
  const config = parseModelConfig(json, "smoke");
  const packed = initialWeights(config, 1);
  const tensors = weightLayout(config).map(({ name, shape, offset, size: length }) => ({
    name,
    shape,
    data: packed.subarray(offset, offset + length),
  }));
  writeSafetensors(join(folder, "model.safetensors"), tensors);
}

type Check = (
  folder: string,
  device: SmokeOptions["device"],
  rows: number,
  tell: (line: string) => void,
) => Promise<boolean>;

const checkActor: Check = async (folder, device, rows, tell) => {
  const common = { role: "actor" as const, folder, rows };
  return guarded("actor", tell, async () => {
    const found = (await child({ ...common, device, dtype: "float16" })) as ActorSmoke;
    const expected = (await child({ ...common, device: "cpu", dtype: "float32", rows: 8 })) as ActorSmoke;
    const gap = Math.max(...found.logprobs.map((value, i) => Math.abs(value - expected.logprobs[i]!)));
    const fits = gap <= MAX_GAP.logprob;
    tell(
      `  actor    ${fits ? "right" : "WRONG"}: float16 is ${gap.toExponential(1)} nats from the CPU in float32 (at most ${MAX_GAP.logprob}); ` +
        `${rows} rows: ${found.msPerStep.toFixed(1)} ms a step, ${Math.round(found.tokensPerSecond)} tokens/s; ` +
        `sessions ${found.sessionSeconds.toFixed(1)} s, new adapters ${found.publishSeconds.toFixed(2)} s`,
    );
    return fits;
  });
};

const checkLearner: Check = async (folder, device, rows, tell) =>
  guarded("learner", tell, async () => {
    const common = { role: "learner" as const, dtype: "float32" as const, folder, rows };
    const found = (await child({ ...common, device })) as LearnerSmoke;
    const expected = (await child({ ...common, device: "cpu" })) as LearnerSmoke;
    const gap = Math.abs(found.gradNorm / expected.gradNorm - 1);
    const fits = gap <= MAX_GAP.gradient;
    tell(
      `  learner  ${fits ? "right" : "WRONG"}: gradient's norm ${(100 * gap).toFixed(3)} % from the CPU's (at most ${100 * MAX_GAP.gradient} %); ` +
        `${found.tokens} tokens: ${(1000 * found.stepSeconds).toFixed(0)} ms a step, ${found.operations ?? "?"} operations; ` +
        `weights read back in ${found.publishSeconds.toFixed(2)} s`,
    );
    return fits;
  });

/** Runs a check; a failure is told in one line with a cure. @returns whether it is right */
async function guarded(side: string, tell: (line: string) => void, check: () => Promise<boolean>): Promise<boolean> {
  try {
    return await check();
  } catch (error) {
    const { stderr = "", message } = error as { stderr?: string; message: string };
    const said = `${stderr}\n${message}`;
    const reason = /^\w*Error: (.+)$/m.exec(said)?.[1] ?? stderr.trim().split("\n").at(-1) ?? message;
    const cure = CURES.find(([pattern]) => pattern.test(said))?.[1] ?? "doctor --json has all that was found";
    tell(`  ${side.padEnd(7)}  FAILS: ${reason.slice(0, 300)}\n           ${cure}`);
    return false;
  }
}

/** Runs smoke-child.js in the environment that the launcher gives that side. */
async function child(request: SmokeRequest): Promise<unknown> {
  const script = fileURLToPath(new URL("./smoke-child.js", import.meta.url));
  const [gpu = "0"] = visibleGpus(process.env, smiList());
  const libraryPath = request.role === "actor" ? actorLibraryPath() : cudaLibraryPath("12");
  const env = { ...process.env, ...deviceEnv(request.device === "cuda" ? gpu : null, libraryPath, process.env) };
  const { stdout } = await run(process.execPath, [script, JSON.stringify(request)], {
    env,
    timeout: TIMEOUT_MS,
    maxBuffer: 2 ** 26,
  });
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
}
