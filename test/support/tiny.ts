/**
 * A tiny Qwen2, runs and rollout batches for it: what the learner's tests train on. Values are
 * formulas, not files.
 */
import { runConfigSchema, type RunConfig } from "../../src/config/schema.js";
import type { TF } from "../../src/learner/backend/backend.js";
import { TrainableModel, baseFromPacked } from "../../src/learner/policy/model.js";
import type { TrainingBatch } from "../../src/learner/rollouts/rollout-source.js";
import { Updater } from "../../src/learner/algorithms/update.js";
import { parseModelConfig } from "../../src/model/config.js";
import { layoutSize, weightLayout, type LayoutEntry } from "../../src/model/layout.js";
import type { Completion, Task, TrajectoryGroup } from "../../src/protocol/messages.js";
import { Draw } from "../../src/math/random.js";

export const tinyConfig = parseModelConfig(
  {
    model_type: "qwen2",
    vocab_size: 17,
    hidden_size: 8,
    intermediate_size: 12,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 64,
    tie_word_embeddings: true,
  },
  "tiny",
);

/** Uniform in (-0.4, 0.4); norms around 1. */
export function tinyWeights(layout: readonly LayoutEntry[] = weightLayout(tinyConfig), seed = 1): Float32Array {
  const draw = new Draw(seed);
  const packed = new Float32Array(layoutSize(layout));
  for (const { name, offset, size } of layout) {
    for (let i = 0; i < size; i++) packed[offset + i] = 0.8 * draw.unit() - 0.4 + (name.includes("norm") ? 1 : 0);
  }
  return packed;
}

type Deep<T> = { [K in keyof T]?: T[K] extends unknown[] ? T[K] : T[K] extends object | null ? Deep<T[K]> : T[K] };

/**
 * A run with a constant rate and an Adam that is not sign-like, so that equal gradients give equal
 * steps.
 */
export function tinyRun(overrides: Deep<RunConfig> = {}): RunConfig {
  return runConfigSchema.parse({
    learning_rate: 0.01,
    lr_scheduler_type: "constant",
    adam_epsilon: 1e-3,
    max_grad_norm: 1e6,
    max_completion_length: 6,
    num_generations: 3,
    generation_batch_size: 12,
    temperature: 0.8,
    ...overrides,
  });
}

export interface BatchOptions {
  readonly groups?: number;
  readonly groupSize?: number;
  readonly seed?: number;
  /** Reward of completion r of group g. */
  readonly reward?: (g: number, r: number) => number | null;
  readonly edit?: (completion: Completion, g: number, r: number) => Completion;
}

/** Groups with prompts of 1 to 4 tokens and completions of 1 to 6; one reward in three is 1. */
export function tinyBatch(options: BatchOptions = {}): TrainingBatch {
  const {
    groups = 4,
    groupSize = 3,
    seed = 1,
    reward = (g, r) => Number((g + r) % 3 === 0),
    edit = (c) => c,
  } = options;
  const draw = new Draw(seed);
  const ids = (n: number): Int32Array => Int32Array.from({ length: n }, () => draw.int(0, tinyConfig.vocabSize - 1));
  const tasks: Task[] = [];
  const answers: TrajectoryGroup[] = [];
  for (let g = 0; g < groups; g++) {
    const taskId = `b000000-${String(g).padStart(4, "0")}`;
    tasks.push({
      taskId,
      kind: "train",
      batch: 0,
      promptIds: ids(draw.int(1, 4)),
      groupSize,
      seed: 0n,
      minIteration: 0,
      sampling: { temperature: 0.8, maxNewTokens: 6, stopIds: [0] },
      problem: { question: "", answer: "" },
    });
    const completions = Array.from({ length: groupSize }, (_, r): Completion => {
      const tokens = ids(draw.int(1, 6));
      return edit(
        {
          ids: tokens,
          behaviourLogprobs: Float32Array.from(tokens, () => -2 - 1.5 * draw.unit()),
          finishReason: tokens.length === 6 ? "length" : "stop",
          version: { iteration: 0, sha256: "" },
          rewards: { correctness: reward(g, r) },
          rewardErrors: [],
          outcome: "wrong",
        },
        g,
        r,
      );
    });
    answers.push({ taskId, actorId: "a", completions, timing: { queuedMs: 0, prefillMs: 0, decodeMs: 0 } });
  }
  return { batch: 0, tasks, groups: answers, filteredGroups: 0, actorIdleSeconds: 0, actorBusySeconds: 0 };
}

/**
 * A model and its updater; `startAt` replaces the trainable vector (adapters and value heads start
 * at 0 otherwise).
 */
export function tinyLearner(tf: TF, run: RunConfig, startAt?: (layout: readonly LayoutEntry[]) => Float32Array) {
  const packed = tinyWeights();
  let model = new TrainableModel(tf, tinyConfig, run, baseFromPacked(packed), null);
  if (startAt !== undefined) {
    const { layout } = model;
    model.dispose();
    model = new TrainableModel(tf, tinyConfig, run, baseFromPacked(packed), startAt(layout));
  }
  const updater = new Updater({ tf, run, model });
  const dispose = (): void => {
    updater.policy.optimizer.dispose();
    model.dispose();
  };
  return { model, updater, dispose };
}

/**
 * max |actual − reference| / max |reference|, the latter no less than `floor`. Infinity when an
 * entry is not a number.
 */
export function relativeGap(actual: ArrayLike<number>, reference: ArrayLike<number>, floor = 0): number {
  if (actual.length !== reference.length) return Infinity;
  let gap = 0;
  let largest = floor;
  for (let i = 0; i < reference.length; i++) {
    const difference = Math.abs(actual[i]! - reference[i]!);
    if (Number.isNaN(difference)) return Infinity;
    gap = Math.max(gap, difference);
    largest = Math.max(largest, Math.abs(reference[i]!));
  }
  return gap === 0 ? 0 : gap / largest;
}
