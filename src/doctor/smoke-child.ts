/**
 * A process of its own that does one side's first work on a device: a GPU library can crash it.
 * Argument: a SmokeRequest; last line of stdout: an ActorSmoke or a LearnerSmoke.
 */
import type { EngineOptions } from "../engine/engine-types.js";
import { loraLayout } from "../model/lora.js";
import { readModelConfig } from "../model/config.js";
import { layoutSize } from "../model/layout.js";
import { mulberry32 } from "../math/random.js";

export interface SmokeRequest {
  readonly role: "actor" | "learner";
  readonly device: "cpu" | "cuda";
  /** How the actor's linear layers compute. */
  readonly dtype: "float32" | "float16";
  /** Folder of a model in Hugging Face's format. */
  readonly folder: string;
  /** Completions in flight. */
  readonly rows: number;
}

export interface ActorSmoke {
  /** In nats, of given tokens. */
  readonly logprobs: readonly number[];
  readonly sessionSeconds: number;
  /** New adapters into the engine. */
  readonly publishSeconds: number;
  readonly msPerStep: number;
  readonly tokensPerSecond: number;
}

export interface LearnerSmoke {
  readonly gradNorm: number;
  readonly stepSeconds: number;
  readonly tokens: number;
  /** TensorFlow's operations in a step; null on another backend. */
  readonly operations: number | null;
  /** The trained vector read back. */
  readonly publishSeconds: number;
}

const MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const LORA = { r: 16, lora_alpha: 16, lora_dropout: 0, target_modules: MODULES };
const PROMPT = 24;
const [GROUPS, GROUP_SIZE, COMPLETION] = [2, 4, 12];
const SEGMENT = 16;
const STEPS = 32;

const seconds = async <T>(work: () => Promise<T>): Promise<[T, number]> => {
  const begin = performance.now();
  const result = await work();
  return [result, (performance.now() - begin) / 1000];
};

const tokens = (length: number, salt: number, vocabulary: number): Int32Array =>
  Int32Array.from({ length }, (_, t) => (31 * salt + 7 * t * t + 13 * t) % vocabulary);

async function actor({ device, dtype, folder, rows }: SmokeRequest): Promise<ActorSmoke> {
  const { OrtEngine } = await import("../engine/engine.js");
  const { generateAll } = await import("../engine/local.js");
  const shape = readModelConfig(folder);
  const options: EngineOptions = { threads: 0, maxRows: rows, segmentLength: SEGMENT, device, dtype };
  const [engine, sessionSeconds] = await seconds(() =>
    OrtEngine.create(shape, options, { spec: LORA, baseFolder: folder }),
  );
  const random = mulberry32(1);
  const adapters = Float32Array.from({ length: layoutSize(loraLayout(shape, LORA)) }, () => 0.02 * (2 * random() - 1));
  const [, publishSeconds] = await seconds(async () => engine.load(adapters, 1));
  const request = (id: string, groupSize: number, maxNewTokens: number, salt: number) => ({
    requestId: id,
    promptIds: tokens(PROMPT, salt, shape.vocabSize),
    groupSize,
    seed: BigInt(salt),
    sampling: { temperature: 1, maxNewTokens, stopIds: [] },
  });
  const forced = Array.from({ length: GROUPS }, (_, g) => ({
    ...request(`forced ${g}`, GROUP_SIZE, COMPLETION, g),
    forced: Array.from({ length: GROUP_SIZE }, (_, c) => tokens(COMPLETION, 10 * g + c + 3, shape.vocabSize)),
  }));
  const answers = await generateAll(engine, forced);
  const free = (salt: number) =>
    generateAll(
      engine,
      Array.from({ length: Math.ceil(rows / 8) }, (_, g) => request(`free ${salt} ${g}`, 8, STEPS, 100 * salt + g)),
    );
  await free(1); // compiles, allocates, warms up
  const [, wall] = await seconds(() => free(2));
  await engine.dispose();
  return {
    logprobs: answers.flatMap(({ completions }) => completions.flatMap((completion) => [...completion.logprobs])),
    sessionSeconds,
    publishSeconds,
    msPerStep: (1000 * wall) / STEPS,
    tokensPerSecond: (Math.ceil(rows / 8) * 8 * STEPS) / wall,
  };
}

async function learner({ device, folder }: SmokeRequest): Promise<LearnerSmoke> {
  const { runConfigSchema } = await import("../config/schema.js");
  const { startBackend } = await import("../learner/backend/backend.js");
  const { TrainableModel, baseFromFolder } = await import("../learner/policy/model.js");
  const { Updater } = await import("../learner/algorithms/update.js");
  const { tf, usesGpu, name } = await startBackend("auto", 0);
  if (device === "cuda" && !usesGpu) throw new Error(`TensorFlow.js took ${name} on the CPU, expected a GPU`);
  const shape = readModelConfig(folder);
  const run = runConfigSchema.parse({
    lora: { enabled: true, ...LORA },
    learning_rate: 1e-6,
    lr_scheduler_type: "constant",
    model: { path: folder, gradient_checkpointing: true },
  });
  const model = new TrainableModel(tf, shape, run, baseFromFolder(folder, shape), null);
  const updater = new Updater({ tf, run, model });
  const ids = (g: number, c: number): Int32Array => tokens(8 * COMPLETION, 10 * g + c + 3, shape.vocabSize);
  const batch = {
    batch: 0,
    tasks: Array.from({ length: GROUPS }, (_, g) => ({
      taskId: String(g),
      kind: "train" as const,
      batch: 0,
      promptIds: tokens(PROMPT, g, shape.vocabSize),
      groupSize: GROUP_SIZE,
      seed: 0n,
      minIteration: 0,
      sampling: { temperature: 1, maxNewTokens: 8 * COMPLETION, stopIds: [] },
      problem: { question: "", answer: "" },
    })),
    groups: Array.from({ length: GROUPS }, (_, g) => ({
      taskId: String(g),
      actorId: "smoke",
      completions: Array.from({ length: GROUP_SIZE }, (_, c) => ({
        ids: ids(g, c),
        behaviourLogprobs: new Float32Array(8 * COMPLETION).fill(-Math.log(shape.vocabSize)),
        finishReason: "length" as const,
        version: { iteration: 0, sha256: "" },
        rewards: { correctness: c % 2 },
        rewardErrors: [],
        outcome: "wrong" as const,
      })),
      timing: { queuedMs: 0, prefillMs: 0, decodeMs: 0 },
    })),
    filteredGroups: 0,
    actorIdleSeconds: 0,
    actorBusySeconds: 0,
  };
  await updater.update(batch, 0);
  const { result, wall, operations } = await counted(tf, () => updater.update(batch, 1));
  const [, publishSeconds] = await seconds(() => model.published());
  return {
    gradNorm: result.metrics["grad_norm"]!,
    stepSeconds: wall,
    tokens: GROUPS * (PROMPT + GROUP_SIZE * 8 * COMPLETION),
    operations,
    publishSeconds,
  };
}

/** Runs work once, counting what TensorFlow's binding is asked to execute. */
async function counted<T>(tf: { backend(): object }, work: () => Promise<T>) {
  type Executes = { executeOp(...args: unknown[]): unknown };
  const backend = tf.backend() as { binding?: Executes };
  const real = backend.binding;
  let operations = 0;
  if (real !== undefined) {
    const names = Object.getOwnPropertyNames(real) as (keyof Executes)[];
    backend.binding = {
      ...Object.fromEntries(names.map((name) => [name, real[name]])),
      executeOp: (...args) => (operations++, real.executeOp(...args)),
    };
  }
  const [result, wall] = await seconds(work);
  if (real !== undefined) backend.binding = real;
  return { result, wall, operations: real === undefined ? null : operations };
}

const request = JSON.parse(process.argv[2]!) as SmokeRequest;
const answer = await (request.role === "actor" ? actor(request) : learner(request));
// libraries that were half loaded can crash a regular exit
process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0));
