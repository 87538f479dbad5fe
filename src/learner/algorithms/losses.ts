/**
 * The losses of GRPO and PPO, as pure functions of log-probabilities (or values) and of what the
 * batch knows about them. Formulas: PPO-clip, Schulman et al. arXiv:1707.06347; GRPO, DeepSeekMath
 * arXiv:2402.03300; DAPO arXiv:2503.14476; Dr. GRPO arXiv:2503.20783; GSPO (sequence level)
 * arXiv:2507.18071; k3, joschu.net/blog/kl-approx.html. In every detail TRL 1.16
 * `grpo_trainer.py::_compute_loss` and TRL 1.12 `experimental/ppo/ppo_trainer.py`, against which
 * values and gradients are tested, except:
 *
 * 1. Every mean is over the whole optimizer step: denominators are passed in, so gradients of
 *    microbatches add up to exactly the large batch's. TRL takes bnpo, PPO's means and the entropy
 *    bonus over each microbatch and averages those.
 * 2. So bnpo and dapo differ only with steps_per_generation > 1: bnpo divides by the tokens of this
 *    optimizer step, dapo (as in TRL) by the average over the steps of the generation batch.
 * 3. Completions whose advantages are all 0 may be left out of the forward pass (when
 *    `zeroAdvantageIsFree`): the denominators still count them, so nothing changes.
 * 4. Each token is weighted by min(C, π_old / π_behaviour), a constant: truncated importance
 *    sampling, TRL's `token_truncate`, not its default `sequence_mask`, which discards long
 *    completions (huggingface/trl#4772). It does not weight the KL term. PPO, unlike TRL's, has it.
 * 5. Ratios are reported before clipping or capping; TRL reports the capped weight.
 * 6. PPO: value and policy loss share one mask, the real tokens (TRL's value mask covers one pad
 *    more); approxkl is a mean over those (TRL's over pads too); PPO has GRPO's entropy bonus.
 *
 * Layout: padding-free. [N] is flat over the completion tokens of the microbatch; `rowOf` names
 * each token's completion, in any order, but a completion is never split between microbatches. All
 * log-probabilities are in nats, of softmax(logits / temperature). The functions make tensors: call
 * them inside `tf.tidy` or a gradient function, and `tf.keep` the metrics.
 */
import type { Scalar, Tensor, Tensor1D } from "@tensorflow/tfjs";
import type { RunConfig } from "../../config/schema.js";
import type { TF } from "../backend/backend.js";
import type { Loss, LossMetrics } from "../policy/loss.js";

export interface PolicyTokens {
  /** [N] of the policy being trained; differentiable. */
  readonly logprobs: Tensor1D;
  /** [N] of π_old, the policy the ratio is taken to; null = this very policy (ratio 1). */
  readonly oldLogprobs: Float32Array | null;
  /** [N] as the actor reports; null = no weight (`old_logprobs: behaviour`: π_old is the actor). */
  readonly behaviourLogprobs: Float32Array | null;
  /** [N] of the reference policy; read when beta ≠ 0. */
  readonly refLogprobs: Float32Array | null;
  /** [N] entropy of each token's distribution; differentiable where entropy_coef ≠ 0. */
  readonly entropy: Tensor1D | null;
  /** [N] */
  readonly advantages: Float32Array;
  /** [N] 1 = the loss counts this token, 0 = it does not (its numbers must still be finite). */
  readonly mask: Float32Array;
  /** [N] completion of each token, in [0, numRows). */
  readonly rowOf: Int32Array;
  readonly numRows: number;
}

export type GrpoOptions = Pick<
  RunConfig,
  | "loss_type"
  | "importance_sampling_level"
  | "importance_sampling_cap"
  | "epsilon"
  | "epsilon_high"
  | "delta"
  | "beta"
  | "use_bias_correction_kl"
  | "entropy_coef"
  | "max_completion_length"
>;

export type PpoPolicyOptions = Pick<RunConfig, "cliprange" | "importance_sampling_cap" | "entropy_coef">;

/** What means are taken over: completions without a forward count, masked tokens never do. */
export interface Denominators {
  /** Completions of this optimizer step. */
  readonly rows: number;
  /** Unmasked tokens of this optimizer step. */
  readonly tokens: number;
  /** Unmasked tokens of the generation batch, divided by steps_per_generation (dapo). */
  readonly generationTokens: number;
}

/** True when a completion with advantage 0 has neither loss nor gradient, and needs no forward. */
export const zeroAdvantageIsFree = ({ beta, entropy_coef }: Pick<RunConfig, "beta" | "entropy_coef">): boolean =>
  beta === 0 && entropy_coef === 0;

/** [N] 1 for every token, except those of truncated completions when these are to be masked. */
export const lossMask = (rowOf: Int32Array, truncated: readonly boolean[], maskTruncated: boolean): Float32Array =>
  Float32Array.from(rowOf, (row) => (maskTruncated && truncated[row] ? 0 : 1));

/** [N] one value per row (GRPO's advantage) as one value per token. */
export const perToken = (perRow: ArrayLike<number>, rowOf: Int32Array): Float32Array =>
  Float32Array.from(rowOf, (row) => perRow[row]!);

/**
 * GRPO's loss in all its variants:
 *   Σ_t weight_t · ( w_t · max(−min(ρ, δ)·A, −clip(ρ, 1 − ε, 1 + ε_high)·A) + β·k3_t ) −
 *   entropy_coef · mean entropy
 * with ρ = π/π_old of the token, or exp(mean log-ratio) of its sequence, and w_t = min(C,
 * π_old/π_behaviour). Metrics: clip_{low,high,region}_sum (tokens, or sequences at sequence level),
 * tokens_sum, and where they apply kl_sum, entropy_sum, sampling_{ratio_sum,ratio_max,gap_sum}.
 */
export function grpoLoss(tf: TF, tokens: PolicyTokens, options: GrpoOptions, denominators: Denominators): Loss {
  const { beta, delta } = options;
  const weights = tf.tensor1d(tokenWeights(tokens, options, denominators));
  const mask = tf.tensor1d(tokens.mask);
  const old = oldLogprobs(tf, tokens);
  const logRatio = tf.sub<Tensor1D>(tokens.logprobs, old);
  const ratio = tf.exp(options.importance_sampling_level === "token" ? logRatio : sequenceMean(tf, logRatio, tokens));

  const low = 1 - options.epsilon;
  const high = 1 + (options.epsilon_high ?? options.epsilon);
  const cappedRatio = delta === null ? ratio : tf.minimum(ratio, delta);
  const surrogate = clippedSurrogate(tf, cappedRatio, tf.clipByValue(ratio, low, high), tokens.advantages);

  const sampling = samplingWeight(tf, old, tokens, options.importance_sampling_cap);
  let perTokenLoss: Tensor = sampling === null ? surrogate : tf.mul(surrogate, sampling.weight);
  let klSum: LossMetrics = {};
  if (beta !== 0) {
    const kl = k3(tf, tokens);
    // Without the factor, k3's gradient is not that of the KL (DeepSeek-V3.2, arXiv:2512.02556).
    const corrected = options.use_bias_correction_kl ? tf.mul(kl, ratio) : kl;
    perTokenLoss = tf.add(perTokenLoss, tf.mul(corrected, beta));
    klSum = { kl_sum: weighted(tf, corrected, mask) };
  }
  const sum = weighted(tf, perTokenLoss, weights);
  const loss = withEntropyBonus(tf, sum, tokens, options.entropy_coef, denominators, mask);

  // At sequence level a clipped sequence counts once: its tokens share it.
  const counted =
    options.importance_sampling_level === "token" ? mask : tf.tensor1d(divideByRowLength(tokens.mask, tokens));
  const advantages = tf.tensor1d(tokens.advantages);
  const clippedLow = tf.logicalAnd(tf.less(cappedRatio, low), tf.less(advantages, 0));
  const clippedHigh = tf.logicalAnd(tf.greater(cappedRatio, high), tf.greater(advantages, 0));
  return {
    loss,
    metrics: {
      tokens_sum: tf.sum(mask),
      clip_low_sum: weighted(tf, tf.cast(clippedLow, "float32"), counted),
      clip_high_sum: weighted(tf, tf.cast(clippedHigh, "float32"), counted),
      clip_region_sum: weighted(tf, tf.cast(tf.logicalOr(clippedLow, clippedHigh), "float32"), counted),
      ...klSum,
      ...entropySum(tf, tokens, mask),
      ...sampling?.metrics,
    },
  };
}

/**
 * PPO's clipped policy loss: Σ_t mask_t · w_t · max(−ρA, −clip(ρ, 1 ± cliprange)·A) / tokens, minus
 * the entropy bonus. Metrics: clip_region_sum counts tokens where the clipped term is the larger,
 * approxkl_sum is 0.5·logratio²; the others are GRPO's.
 */
export function ppoPolicyLoss(
  tf: TF,
  tokens: PolicyTokens,
  options: PpoPolicyOptions,
  denominators: Denominators,
): Loss {
  const mask = tf.tensor1d(tokens.mask);
  const old = oldLogprobs(tf, tokens);
  const logRatio = tf.sub<Tensor1D>(tokens.logprobs, old);
  const ratio = tf.exp(logRatio);
  const clipped = tf.clipByValue(ratio, 1 - options.cliprange, 1 + options.cliprange);
  const surrogate = clippedSurrogate(tf, ratio, clipped, tokens.advantages);
  const sampling = samplingWeight(tf, old, tokens, options.importance_sampling_cap);
  const perTokenLoss = sampling === null ? surrogate : tf.mul(surrogate, sampling.weight);
  const mean = tf.div<Scalar>(weighted(tf, perTokenLoss, mask), Math.max(1, denominators.tokens));
  const advantages = tf.tensor1d(tokens.advantages);
  const isClipped = tf.less(tf.mul(clipped, advantages), tf.mul(ratio, advantages));
  return {
    loss: withEntropyBonus(tf, mean, tokens, options.entropy_coef, denominators, mask),
    metrics: {
      tokens_sum: tf.sum(mask),
      clip_region_sum: weighted(tf, tf.cast(isClipped, "float32"), mask),
      approxkl_sum: weighted(tf, tf.mul(tf.square(logRatio), 0.5), mask),
      ...entropySum(tf, tokens, mask),
      ...sampling?.metrics,
    },
  };
}

export interface ValueTokens {
  /** [N] V before each token, of the value function being trained; differentiable. */
  readonly values: Tensor1D;
  /** [N] the same when the iteration started. */
  readonly oldValues: Float32Array;
  /** [N] */
  readonly returns: Float32Array;
  /** [N] 1 = counted. */
  readonly mask: Float32Array;
}

/**
 * PPO's clipped value loss: 0.5 · Σ_t mask_t · max((V − R)², (clip(V, V_old ± cliprange_value) −
 * R)²) / tokens. Metrics: value_clip_sum (tokens).
 */
export function valueLoss(
  tf: TF,
  { values, oldValues, returns, mask }: ValueTokens,
  { cliprange_value }: Pick<RunConfig, "cliprange_value">,
  denominators: Pick<Denominators, "tokens">,
): Loss {
  const old = tf.tensor1d(oldValues);
  const target = tf.tensor1d(returns);
  const counted = tf.tensor1d(mask);
  // Bounds first, then min and max: an unclipped value stays bit for bit, and counts as unclipped.
  const clipped = tf.minimum(tf.maximum(values, tf.sub(old, cliprange_value)), tf.add(old, cliprange_value));
  const plainError = tf.squaredDifference(values, target);
  const clippedError = tf.squaredDifference(clipped, target);
  const sum = weighted(tf, tf.maximum(plainError, clippedError), counted);
  return {
    loss: tf.mul(sum, 0.5 / Math.max(1, denominators.tokens)),
    metrics: { value_clip_sum: weighted(tf, tf.cast(tf.greater(clippedError, plainError), "float32"), counted) },
  };
}

/**
 * [N] the constant factor of each token in the loss, TRL's four aggregations. Sums are over
 * unmasked tokens:
 *   grpo     1 / (tokens of the row · rows)       a masked row still counts among the rows
 *   bnpo     1 / tokens of the optimizer step
 *   dr_grpo  1 / (rows · max_completion_length)
 *   dapo     1 / average tokens per optimizer step of the generation batch
 */
function tokenWeights(
  tokens: Pick<PolicyTokens, "mask" | "rowOf" | "numRows">,
  options: Pick<GrpoOptions, "loss_type" | "max_completion_length">,
  denominators: Denominators,
): Float32Array {
  if (options.loss_type === "grpo") {
    return divideByRowLength(tokens.mask, tokens).map((share) => share / denominators.rows);
  }
  const divisor = {
    bnpo: denominators.tokens,
    dr_grpo: denominators.rows * options.max_completion_length,
    dapo: denominators.generationTokens,
  }[options.loss_type];
  // A step whose every token is masked has loss 0, not 0 / 0.
  return tokens.mask.map((counts) => counts / (divisor || 1));
}

/** [N] mask over the unmasked tokens of the token's row: each row's entries add up to 1 (or 0). */
function divideByRowLength(
  mask: Float32Array,
  { rowOf, numRows }: Pick<PolicyTokens, "rowOf" | "numRows">,
): Float32Array {
  const lengths = new Float64Array(numRows);
  rowOf.forEach((row, t) => (lengths[row]! += mask[t]!));
  return mask.map((counts, t) => counts / Math.max(1, lengths[rowOf[t]!]!));
}

/** Scalar Σ_t x_t · weight_t. */
const weighted = (tf: TF, x: Tensor, weights: Tensor1D): Scalar => tf.sum(tf.mul(x, weights));

/** [N] π_old's log-probabilities, as a constant. */
const oldLogprobs = (tf: TF, { logprobs, oldLogprobs: old }: PolicyTokens): Tensor1D =>
  old === null ? detach(tf, logprobs) : tf.tensor1d(old);

function detach(tf: TF, x: Tensor1D): Tensor1D {
  const stop = tf.customGrad<Tensor1D>((value) => {
    const y = (value as Tensor1D).clone();
    return { value: y, gradFunc: (dy) => tf.zerosLike(dy) };
  });
  return stop(x);
}

/** [N] mean over the unmasked tokens of each row, spread back over the row. */
function sequenceMean(tf: TF, x: Tensor1D, tokens: PolicyTokens): Tensor1D {
  const rowOf = tf.tensor1d(tokens.rowOf, "int32");
  const shares = tf.tensor1d(divideByRowLength(tokens.mask, tokens));
  return tf.gather(tf.unsortedSegmentSum<Tensor1D>(tf.mul(x, shares), rowOf, tokens.numRows), rowOf);
}

/** [N] −min(ρA, clipped ρ·A). */
function clippedSurrogate(tf: TF, ratio: Tensor, clippedRatio: Tensor, advantages: Float32Array): Tensor {
  const advantage = tf.tensor1d(advantages);
  return tf.neg(tf.minimum(tf.mul(ratio, advantage), tf.mul(clippedRatio, advantage)));
}

/** [N] exp(d) − d − 1, d = log π_ref − log π: unbiased and never negative for KL(π ‖ π_ref). */
function k3(tf: TF, { logprobs, refLogprobs }: PolicyTokens): Tensor {
  if (refLogprobs === null) throw new Error("beta is not 0, but no reference log-probabilities were given");
  const d = tf.sub(tf.tensor1d(refLogprobs), logprobs);
  return tf.sub(tf.sub(tf.exp(d), d), 1);
}

/** [N] min(cap, π_old / π_behaviour), constant; metrics precede the cap. Null without an actor. */
function samplingWeight(tf: TF, old: Tensor1D, tokens: PolicyTokens, cap: number) {
  if (tokens.behaviourLogprobs === null) return null;
  const mask = tf.tensor1d(tokens.mask);
  const gap = tf.sub<Tensor1D>(old, tf.tensor1d(tokens.behaviourLogprobs));
  const ratio = tf.exp<Tensor1D>(gap);
  return {
    weight: tf.minimum<Tensor1D>(ratio, cap),
    metrics: {
      sampling_ratio_sum: weighted(tf, ratio, mask),
      sampling_ratio_max: tf.max<Scalar>(tf.mul(ratio, mask)),
      sampling_gap_sum: weighted(tf, tf.abs(gap), mask),
    },
  };
}

function withEntropyBonus(
  tf: TF,
  loss: Scalar,
  { entropy }: PolicyTokens,
  coefficient: number,
  { tokens }: Denominators,
  mask: Tensor1D,
): Scalar {
  if (coefficient === 0) return loss;
  if (entropy === null) throw new Error("entropy_coef is not 0, but no entropies were given");
  return tf.sub(loss, tf.mul(weighted(tf, entropy, mask), coefficient / Math.max(1, tokens)));
}

const entropySum = (tf: TF, { entropy }: PolicyTokens, mask: Tensor1D): LossMetrics =>
  entropy === null ? {} : { entropy_sum: weighted(tf, entropy, mask) };
