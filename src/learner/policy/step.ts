/** One optimizer step: the algorithm's loss over microbatches, their summed gradient, AdamW. */
import type { Scalar, Tensor, Tensor1D } from "@tensorflow/tfjs";
import { UserError } from "../../errors.js";
import { stepsPerIteration } from "../../config/derived.js";
import { columns, packedParts, type Training } from "./forward.js";
import { mergeMetrics, type Loss } from "./loss.js";
import { AdamW } from "./optimizer.js";
import type { PackedBatch, SequenceGroup } from "./packing.js";
import { completionLogprobs, completionValues, disposeBatch, hiddenStates, type Microbatch } from "./policy.js";
import { type NamedWeights } from "./named-weights.js";
import { addGradient } from "./primitives.js";

/** A run with this many updates in a row whose loss or gradient is not finite is stopped. */
const MAX_BAD_UPDATES = 5;

export interface LossInput {
  readonly packed: PackedBatch;
  /** Numbers of its completions in the whole batch. */
  readonly completions: readonly number[];
  /** Joins per-completion arrays of the batch into the microbatch's [N]. */
  readonly gather: (perCompletion: readonly Float32Array[]) => Float32Array;
  /** [N] log-probabilities and entropies under the policy being trained. */
  readonly policy: () => { readonly logprobs: Tensor1D; readonly entropy: Tensor1D };
  /** [N] values before each token. */
  readonly values: () => Tensor1D;
}

export interface StepResult {
  readonly loss: number;
  /** Global norm before clipping. */
  readonly gradNorm: number;
  readonly metrics: Record<string, number>;
}

export class PolicyOptimizer {
  readonly training: Training;
  readonly optimizer: AdamW;
  /** Updates skipped because the loss or its gradient was not finite. */
  skippedUpdates = 0;
  #badInARow = 0;

  constructor(training: Training) {
    const { tf, run, model } = training;
    this.training = training;
    const valueRate =
      run.value_learning_rate === null || run.learning_rate === 0 ? 1 : run.value_learning_rate / run.learning_rate;
    this.optimizer = new AdamW(
      tf,
      model.flat,
      model.layout,
      run,
      (name) => (name.startsWith("value_") ? valueRate : 1),
      // The critic's warm-up: a shared trunk waits too, because it is the policy.
      run.algo === "ppo"
        ? { size: model.publishedSize, steps: run.critic_warmup_steps * stepsPerIteration(run) }
        : null,
    );
  }

  /** Takes one step on the chosen groups. @throws UserError after five bad ones in a row */
  async step(
    sequences: readonly SequenceGroup[],
    groups: readonly number[],
    learningRate: number,
    lossOf: (input: LossInput) => Loss,
  ): Promise<StepResult> {
    const { tf, model } = this.training;
    let gradient: Tensor | null = null;
    let loss = 0;
    let metrics: Record<string, number> = {};
    let microbatch = 0;
    for (const { prepared, completions } of packedParts(this.training, sequences, groups)) {
      const part = await this.#gradient(prepared, completions, microbatch++, lossOf);
      loss += part.loss;
      metrics = mergeMetrics(metrics, part.metrics);
      gradient = addGradient(tf, gradient, part.gradient);
      disposeBatch(tf, prepared);
    }
    // Every advantage may be zero; the moments still decay.
    gradient ??= tf.zerosLike(model.flat as Tensor);
    const gradNorm = Number.isFinite(loss) ? await this.optimizer.update(gradient, learningRate) : NaN;
    gradient.dispose();
    this.#countBadUpdate(loss, gradNorm);
    return { loss, gradNorm, metrics };
  }

  async #gradient(
    prepared: Microbatch,
    completions: readonly number[],
    microbatch: number,
    lossOf: (input: LossInput) => Loss,
  ): Promise<{ loss: number; metrics: Record<string, number>; gradient: Tensor }> {
    const { tf, run, model } = this.training;
    const { gradient_checkpointing: checkpointing } = run.model;
    let names: string[] = [];
    let kept: Scalar[] = [];
    const { value, grads } = tf.variableGrads(() => {
      const views = model.views();
      const weights = this.#withDropout(model.policy(views), microbatch);
      const hidden = hiddenStates(tf, model.shape, weights, prepared, checkpointing);
      const policy: LossInput["policy"] = () => {
        const gradientOf = run.entropy_coef === 0 ? "logprobs" : "both";
        const both = completionLogprobs(tf, model.shape, weights, hidden, prepared, run.temperature, gradientOf);
        const [logprobs, entropy] = columns(tf, both);
        return { logprobs, entropy };
      };
      const values = (): Tensor1D => {
        const trunk = this.#withDropout(model.value(views), microbatch);
        const states = model.separateValue ? hiddenStates(tf, model.shape, trunk, prepared, checkpointing) : hidden;
        return completionValues(tf, { tensors: views, lora: null }, states, prepared.predictors);
      };
      const gather = (all: readonly Float32Array[]): Float32Array => concat(completions.map((c) => all[c]!));
      const result = lossOf({ packed: prepared.packed, completions, gather, policy, values });
      names = Object.keys(result.metrics);
      kept = Object.values(result.metrics).map((scalar) => tf.keep(scalar));
      return result.loss;
    }, [model.flat]);
    const loss = (await value.data())[0]!;
    const numbers = await Promise.all(kept.map((scalar) => scalar.data()));
    tf.dispose([value, ...kept]);
    const metrics = Object.fromEntries(names.map((name, i) => [name, numbers[i]![0]!]));
    return { loss, metrics, gradient: Object.values(grads)[0]! };
  }

  /** Adds dropout on the adapters' inputs, in the gradient's forward only. */
  #withDropout(weights: NamedWeights, microbatch: number): NamedWeights {
    const { seed, lora } = this.training.run;
    if (weights.lora === null || lora.lora_dropout === 0) return weights;
    const dropout = { rate: lora.lora_dropout, seed: `${seed} ${this.optimizer.step} ${microbatch}` };
    return { ...weights, lora: { ...weights.lora, dropout } };
  }

  #countBadUpdate(loss: number, gradNorm: number): void {
    if (Number.isFinite(gradNorm)) {
      this.#badInARow = 0;
      return;
    }
    this.skippedUpdates++;
    if (++this.#badInARow < MAX_BAD_UPDATES) return;
    throw new UserError(
      `loss or gradient was not finite (loss ${loss}, norm ${gradNorm}) ${MAX_BAD_UPDATES} times in a row, so training has ` +
        `diverged. Start again with a lower learning rate (now ${this.training.run.learning_rate}), from an earlier checkpoint if you like.`,
    );
  }
}

export function concat(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
