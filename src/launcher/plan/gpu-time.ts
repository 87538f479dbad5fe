/**
 * How long a run would take on GPUs: a model, not a measurement, for nothing has run on one. Counts
 * come from tests that count (test/integration/cuda-placement.test.ts, operation-budget.native.test
 * .ts); what a count costs is assumed, below. Expect it to be right within a factor of two.
 * Legend: H hidden, q and kv widths of queries and keys, I intermediate, V vocabulary, L layers.
 */
import type { RunConfig } from "../../config/schema.js";
import type { ModelConfig } from "../../model/config.js";
import { stepsPerIteration } from "../../config/derived.js";
import { microbatchShape } from "./learner-memory.js";

/** What a GPU gives to kernels like ours: about 0.8 of its memory's rate, 0.6 of TF32's peak. */
const CARDS = {
  A100: { bytesPerSecond: 1.6e12, flops: 95e12 },
  H100: { bytesPerSecond: 2.7e12, flops: 220e12 },
} as const;

/** Seconds that each start costs the host, and at least the device. */
const HOST_START = 3e-6;
const DEVICE_START = 2.2e-6;
/** ONNX Runtime's own work for a layer of a decode step, beside the starts. */
const HOST_LAYER = 50e-6;
/** One operation of TensorFlow.js: JavaScript, binding, kernel's start. */
const LEARNER_OPERATION = 30e-6;
/** Counted: starts of a decode step and operations of a microbatch, for each of 36 layers. */
const STARTS_PER_LAYER = 1_186 / 36;
const OPERATIONS_PER_LAYER = 14_910 / 36;
/** Bytes a second of keys and values between segments: to and from the GPU, and rearranged. */
const CROSSING = 1e9;
/** Where host and device both work, they overlap but for this share of the shorter one. */
const overlapped = (a: number, b: number): number => Math.max(a, b) + Math.min(a, b) / 4;

/** Completions are assumed to have this share of `max_completion_length`. */
const LENGTH = 0.45;
/** Share of row-steps that yield a token: rows that are done wait for their segment's end. */
const ALIVE = 0.7;

export type GpuTime = ReturnType<typeof gpuTime>;

/**
 * Seconds by part of an iteration, and hours of the run, on a card.
 * @param numActors each on a GPU of its own, but for one, which shares the learner's
 */
export function gpuTime(run: RunConfig, model: ModelConfig, card: keyof typeof CARDS, numActors: number) {
  const { bytesPerSecond, flops } = CARDS[card];
  const { hiddenSize: H, intermediateSize: I, vocabSize: V, numLayers: L } = model;
  const [q, kv] = [model.numHeads * model.headDim, model.numKvHeads * model.headDim];
  const layer = H * (q + 2 * kv) + q * H + 3 * H * I;
  const half = run.actors.dtype === "float16" ? 2 : 4;
  const completion = LENGTH * run.max_completion_length;
  const prompt = run.data.max_prompt_length / 2;

  // A decode step reads all weights, and reads, copies and clears every cache (grouped-segment.ts).
  const rows = Math.min(run.actors.max_rows, Math.ceil(run.generation_batch_size / numActors));
  const cache = rows * (prompt + completion / 2) * 2 * L * kv * half;
  const starts = L * STARTS_PER_LAYER;
  const device = (L * layer * half + V * H * 4 + 4 * cache) / bytesPerSecond + starts * DEVICE_START;
  const step = overlapped(device, L * HOST_LAYER + starts * HOST_START);
  const completions = run.generation_batch_size / numActors;
  const steps = (completions * completion) / (rows * ALIVE);
  // Between segments all caches go to the GPU, and what is new comes back (row-cache.ts).
  const segment = run.actors.segment_length;
  const crossing = (cache + rows * segment * 2 * L * kv * half) / CROSSING;
  const rollout = steps * step + (steps / segment) * crossing;

  // Forward and gradient of x, and forward again where blocks are recomputed; the base is frozen
  // under LoRA, else its gradient is as much again.
  const passes = 2 + Number(run.model.gradient_checkpointing) + Number(!run.lora.enabled);
  const tokens = run.generation_batch_size * (completion + prompt / run.num_generations);
  const arithmetic =
    tokens * passes * 2 * L * layer +
    run.generation_batch_size * completion * (2 + Number(!run.lora.enabled)) * 2 * V * H;
  const { tokens: perMicrobatch } = microbatchShape(run);
  const operations = Math.ceil(tokens / perMicrobatch) * L * OPERATIONS_PER_LAYER * LEARNER_OPERATION;
  const once = overlapped(arithmetic / flops, operations);
  const epochs = run.algo === "ppo" ? run.num_ppo_epochs : run.num_iterations;
  // One more forward: PPO asks for values first, GRPO with several steps for log-probabilities.
  const before = run.algo === "ppo" || stepsPerIteration(run) > 1 ? 1 / (passes + 1) : 0;
  const learner = once * (epochs + before);
  const shares =
    numActors === 1 ? Math.max(rollout, learner) + Math.min(rollout, learner) / 2 : Math.max(rollout, learner);
  return {
    card,
    rows,
    stepMs: 1000 * step,
    tokensPerSecond: (rows * ALIVE) / step,
    rolloutSeconds: rollout,
    learnerSeconds: learner,
    iterationSeconds: shares,
    hours: (run.max_steps * shares) / 3600,
  };
}
