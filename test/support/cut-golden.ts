/**
 * Golden values of test/reference/qwen3b_cut_reference.py, and what the learner has to say to them:
 * one step of the real code path for each of the two ways to choose π_old, and log-probabilities as
 * the run itself measures them.
 */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { cutRollouts, type CutBatch } from "../../bench/cut-model.js";
import { runConfigSchema, type RunConfig } from "../../src/config/schema.js";
import { publishedLogprobs, type Training } from "../../src/learner/policy/forward.js";
import type { TrainableModel } from "../../src/learner/policy/model.js";
import type { TrainingBatch } from "../../src/learner/rollouts/rollout-source.js";
import type { Updater } from "../../src/learner/algorithms/update.js";

interface StepGolden {
  readonly loss: number;
  /** By adapter: its norm, and the entries `at` some of its flat indices. */
  readonly gradients: Readonly<Record<string, { norm: number; at: readonly number[]; values: readonly number[] }>>;
}

type Mode = RunConfig["old_logprobs"];
export const modes: readonly Mode[] = ["recompute", "behaviour"];

export interface CutGolden extends Readonly<Record<Mode, StepGolden>> {
  readonly config: Record<string, unknown>;
  readonly lora: { readonly r: number; readonly lora_alpha: number };
  readonly batch: CutBatch;
  readonly epsilon: number;
  readonly cap: number;
  /** Log-probabilities of all completion tokens, group by group. */
  readonly logprobs: readonly number[];
  readonly behaviourLogprobs: readonly number[];
}

/** @param root the repository */
export function readCutGolden(root: string, name: "qwen3b_cut" | "qwen3b_cut_small"): CutGolden {
  return JSON.parse(readFileSync(`${root}/test/golden/${name}.json`, "utf8")) as CutGolden;
}

/**
 * configs/qwen2.5-3b.yaml with the golden's batch and adapters. The rate is 0, so that every step
 * is taken from the same weights, and the gradient is not clipped.
 */
export function cutRun(root: string, golden: CutGolden, mode: Mode): RunConfig {
  const shipped = parse(readFileSync(`${root}/configs/qwen2.5-3b.yaml`, "utf8")) as Record<string, object>;
  const { rewards, completionLengths } = golden.batch;
  return runConfigSchema.parse({
    ...shipped,
    lora: { ...shipped["lora"], ...golden.lora },
    epsilon: golden.epsilon,
    importance_sampling_cap: golden.cap,
    num_generations: rewards[0]!.length,
    generation_batch_size: rewards.flat().length,
    max_completion_length: Math.max(...completionLengths.flat()),
    reward: { functions: [{ name: "correctness" }] },
    old_logprobs: mode,
    learning_rate: 0,
    max_grad_norm: 1e30,
  });
}

export function cutBatch(golden: CutGolden): TrainingBatch {
  return cutRollouts(golden.config["vocab_size"] as number, golden.batch, golden.behaviourLogprobs);
}

/** Largest gap to torch of each thing compared, as a share of its largest value. */
export interface Gaps {
  readonly loss: number;
  readonly gradientNorms: number;
  /** Entries that were kept, each against the largest of its tensor. */
  readonly gradientEntries: number;
}

/** After an updater's first step, when AdamW's first moment is (1 - beta1) · gradient. */
export async function gapsOfStep(
  updater: Updater,
  model: TrainableModel,
  run: RunConfig,
  loss: number,
  golden: StepGolden,
): Promise<Gaps> {
  const { step, m } = await updater.policy.optimizer.state();
  if (step !== 1) throw new Error(`the gradient can be read after the first step, not after ${step}`);
  let [normGap, entryGap] = [0, 0];
  const largest = Math.max(...Object.values(golden.gradients).map(({ norm }) => norm));
  for (const { name, offset, size } of model.layout) {
    const expected = golden.gradients[name]!;
    const gradient = m.subarray(offset, offset + size).map((value) => value / (1 - run.adam_beta1));
    const norm = Math.sqrt(gradient.reduce((sum, value) => sum + value * value, 0));
    normGap = worst(normGap, Math.abs(norm - expected.norm) / largest);
    const scale = Math.max(...expected.values.map(Math.abs));
    expected.at.forEach((i, n) => {
      entryGap = worst(entryGap, Math.abs(gradient[i]! - expected.values[n]!) / scale);
    });
  }
  const lossGap = Math.abs(loss - golden.loss) / Math.abs(golden.loss);
  return { loss: lossGap, gradientNorms: normGap, gradientEntries: entryGap };
}

/**
 * Largest difference of two lists, as a share of the second one's largest value; infinite where
 * something is not a number.
 */
export function listGap(found: ArrayLike<number>, expected: readonly number[]): number {
  if (found.length !== expected.length) return Infinity;
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return expected.reduce((gap, value, i) => worst(gap, Math.abs(found[i]! - value) / largest), 0);
}

/** Math.max that takes what is not a number for infinite. */
function worst(a: number, b: number): number {
  return Number.isNaN(b) ? Infinity : Math.max(a, b);
}

/** Log-probabilities of the batch under the model's weights, in the golden's order. */
export async function logprobsOfBatch(training: Training, batch: TrainingBatch): Promise<Float32Array> {
  const sequences = batch.groups.map(({ completions }, g) => ({
    promptIds: batch.tasks[g]!.promptIds,
    completions: completions.map(({ ids }) => ids),
  }));
  const all = await publishedLogprobs(training, await training.model.published(), sequences);
  return Float32Array.from(all.flatMap((one) => [...one]));
}
