/**
 * Our side of the comparisons: rollout engine and learner step behind JSON lines. Started by
 * side.ts as `node ours.js <threads>`; `peers/torch_side.py` answers the same requests.
 */
import { createInterface } from "node:readline";
import { OrtEngine } from "../src/engine/engine.js";
import { generateAll } from "../src/engine/local.js";
import { runConfigSchema } from "../src/config/schema.js";
import { startBackend } from "../src/learner/backend/backend.js";
import { TrainableModel, baseFromFolder } from "../src/learner/policy/model.js";
import type { TrainingBatch } from "../src/learner/rollouts/rollout-source.js";
import { Updater } from "../src/learner/algorithms/update.js";
import { readModelConfig } from "../src/model/config.js";
import { loadAdapter, loraLayout } from "../src/model/lora.js";
import { loadPacked } from "../src/model/model-weights.js";
import { taskSeed } from "../src/protocol/seeds.js";
import { machine } from "./machine-side.js";
import type { LearnerReply, LearnerRequest, Request, RolloutReply, RolloutRequest } from "./requests.js";

const threads = Number(process.argv[2]);
/** So small that the policy stays the one that sampled, however many steps are timed. */
const LEARNING_RATE = 1e-10;
const engines = new Map<string, OrtEngine>();
const learners = new Map<string, Updater>();

async function engineOf({ model, rows, dtype = "float32" }: RolloutRequest): Promise<OrtEngine> {
  const key = `${model} ${rows} ${dtype}`;
  const found = engines.get(key);
  if (found !== undefined) return found;
  const config = readModelConfig(model);
  const engine = await OrtEngine.create(config, { threads, maxRows: rows, segmentLength: 8, dtype });
  await engine.load(loadPacked(model, config), 0);
  engines.set(key, engine);
  return engine;
}

/** Groups of completions for every prompt, at most `rows` completions in flight. */
async function rollout(request: RolloutRequest): Promise<RolloutReply> {
  const { prompts, groupSize, maxNewTokens, temperature, stopIds, seed } = request;
  const engine = await engineOf(request);
  const asked = prompts.map((ids, p) => ({
    requestId: String(p),
    promptIds: Int32Array.from(ids),
    groupSize,
    seed: taskSeed(seed, `bench-${p}`),
    sampling: { temperature, maxNewTokens, stopIds },
  }));
  const begin = performance.now();
  const groups = await generateAll(engine, asked);
  const seconds = (performance.now() - begin) / 1_000;
  const completions = groups.flatMap((group) => group.completions);
  return {
    seconds,
    tokens: completions.reduce((sum, { ids }) => sum + ids.length, 0),
    completions: completions.map(({ ids }) => [...ids]),
    logprobs: completions.map(({ logprobs }) => [...logprobs]),
  };
}

async function updaterOf({ model, adapter, entropyCoef, backend, matmul }: LearnerRequest): Promise<Updater> {
  const key = `${model} ${adapter} ${entropyCoef}`;
  const found = learners.get(key);
  if (found !== undefined) return found;
  const { tf } = await startBackend(backend, threads, matmul);
  const run = runConfigSchema.parse({
    model: { path: model },
    lora: { enabled: adapter !== null },
    learning_rate: LEARNING_RATE,
    lr_scheduler_type: "constant",
    entropy_coef: entropyCoef,
  });
  const config = readModelConfig(model);
  const adapters = adapter === null ? null : loadAdapter(adapter, loraLayout(config, run.lora), run.lora);
  const updater = new Updater({
    tf,
    run,
    model: new TrainableModel(tf, config, run, baseFromFolder(model, config), adapters),
  });
  learners.set(key, updater);
  return updater;
}

/** One iteration of the learner as a run does it: advantages, forward, backward, AdamW, metrics. */
async function learner(request: LearnerRequest): Promise<LearnerReply> {
  const updater = await updaterOf(request);
  const version = { iteration: 0, sha256: "" };
  const batch: TrainingBatch = {
    batch: 0,
    tasks: request.groups.map(({ promptIds }, g) => ({
      taskId: String(g),
      kind: "train",
      batch: 0,
      promptIds: Int32Array.from(promptIds),
      groupSize: request.groups[g]!.completions.length,
      seed: 0n,
      minIteration: 0,
      sampling: { temperature: 1, maxNewTokens: 64, stopIds: [] },
      problem: { question: "", answer: "" },
    })),
    groups: request.groups.map(({ completions, rewards }, g) => ({
      taskId: String(g),
      actorId: "bench",
      completions: completions.map((ids, c) => ({
        ids: Int32Array.from(ids),
        behaviourLogprobs: Float32Array.from(request.groups[g]!.logprobs[c]!),
        finishReason: "stop",
        version,
        rewards: { correctness: rewards[c]! },
        rewardErrors: [],
        outcome: rewards[c] === 1 ? "correct" : "wrong",
      })),
      timing: { queuedMs: 0, prefillMs: 0, decodeMs: 0 },
    })),
    filteredGroups: 0,
    actorIdleSeconds: 0,
    actorBusySeconds: 0,
  };
  const begin = performance.now();
  const { metrics } = await updater.update(batch, 0);
  return { seconds: (performance.now() - begin) / 1_000, gradNorm: metrics["grad_norm"]! };
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line) as Request;
  const reply =
    request.op === "rollout"
      ? await rollout(request)
      : request.op === "learner"
        ? await learner(request)
        : await machine(request, threads);
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
