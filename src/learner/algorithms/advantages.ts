/**
 * From rewards to advantages: GRPO's group-relative ones, and PPO's token rewards through GAE.
 * Layout: [N] is flat over the batch's completion tokens, row after row; `rowOf` [N] names each
 * token's completion and never decreases; no row is empty. [R] is one entry per row.
 */
import type { RunConfig } from "../../config/schema.js";
import { meanOf, unbiasedStd } from "./metrics.js";

/**
 * Group-relative advantages, (r − mean of the group) / (std + 1e-4). Source: DeepSeekMath
 * (arXiv:2402.03300, §4.1.2) in TRL's form. The unbiased std is the group's or the whole batch's
 * (arXiv:2508.08221); `none` divides by nothing (Dr. GRPO, arXiv:2503.20783).
 * @param rewards groups of rewards; null = not scored: left out of mean and std, advantage 0
 */
export function groupAdvantages(rewards: readonly (readonly (number | null)[])[], scale: RunConfig["scale_rewards"]) {
  const scoredOf = rewards.map((group) => group.filter((reward) => reward !== null));
  // Their every advantage is exactly 0. Asked of the rewards, not of their std: rounding would
  // leave advantages that cost a forward.
  const zeroStd = scoredOf.map((scored) => scored.every((reward) => reward === scored[0]));
  const batchStd = unbiasedStd(scoredOf.flat());
  const advantages = rewards.map((group, g) => {
    const scored = scoredOf[g]!;
    if (zeroStd[g]) return new Float64Array(group.length);
    const center = meanOf(scored);
    const divisor = scale === "none" ? 1 : (scale === "batch" ? batchStd : unbiasedStd(scored)) + 1e-4;
    return Float64Array.from(group, (reward) => (reward === null ? 0 : (reward - center) / divisor));
  });
  return { advantages, zeroStd };
}

export interface PpoBatch {
  /** [N] */
  readonly rowOf: Int32Array;
  /** [N] nats under the policy that starts the iteration; null where no KL is taken. */
  readonly logprobs: Float32Array | null;
  /** [N] nats under the reference policy; null: no KL. */
  readonly refLogprobs: Float32Array | null;
  /** [N] V of the state *before* each token. */
  readonly values: Float32Array;
  /** [R] reward of each completion; null = not scored: the row is masked from every loss. */
  readonly scores: readonly (number | null)[];
  /** [R] true where the completion was cut by length, not ended by a stop token. */
  readonly truncated: readonly boolean[];
  /** [R] V *after* the last token, read on truncated rows; null = 0 there, as TRL and verl do. */
  readonly bootstrapValues: Float32Array | null;
}

export type PpoAdvantageOptions = Pick<
  RunConfig,
  "gamma" | "lam" | "kl_coef" | "kl_estimator" | "whiten_rewards" | "missing_eos_penalty" | "mask_truncated_completions"
>;

/**
 * From rollout to PPO's losses. Source: TRL 1.12 `experimental/ppo/ppo_trainer.py`, steps 4 to 6,
 * except that the score is on the last real token, and truncated or unscored rows can be masked.
 * @param options `kl_coef` is the current coefficient, which adaptive control may have moved
 */
export function ppoAdvantages(batch: PpoBatch, options: PpoAdvantageOptions) {
  const { rowOf, values, scores, truncated, bootstrapValues } = batch;
  const mask = Float64Array.from(rowOf, (row) =>
    scores[row] === null || (options.mask_truncated_completions && truncated[row]) ? 0 : 1,
  );
  const kl = tokenKl(batch, options.kl_estimator);
  let rewards: Float64Array = kl.map((nats) => -options.kl_coef * nats);
  for (let t = 0; t < rowOf.length; t++) {
    const row = rowOf[t]!;
    if (rowOf[t + 1] === row) continue;
    const penalty = truncated[row] ? (options.missing_eos_penalty ?? 0) : 0;
    rewards[t]! += (scores[row] ?? 0) - penalty;
  }
  if (options.whiten_rewards) rewards = whiten(rewards, mask, true);

  const bootstrap = scores.map((_, row) => (truncated[row] ? (bootstrapValues?.[row] ?? 0) : 0));
  const { advantages, returns } = gae({ rowOf, rewards, values, mask, bootstrap }, options.gamma, options.lam);
  return {
    /** [N] whitened over the unmasked tokens of the batch; 0 where masked. */
    advantages: Float32Array.from(whiten(advantages, mask)),
    /** [N] targets of the value function: advantages before whitening, plus values. */
    returns: Float32Array.from(returns),
    /** [N] 1 where policy and value loss count the token. */
    mask: Float32Array.from(mask),
    /** The KL estimate per completion in nats (TRL's objective/kl); 0 without a reference. */
    meanKl: kl.reduce((sum, nats) => sum + nats, 0) / Math.max(1, scores.length),
  };
}

/** [N] KL(policy ‖ reference): k1 = −logr, k3 = r − 1 − logr (joschu.net/blog/kl-approx.html). */
function tokenKl(batch: PpoBatch, estimator: RunConfig["kl_estimator"]): Float64Array {
  const { rowOf, logprobs, refLogprobs } = batch;
  if (logprobs === null || refLogprobs === null) return new Float64Array(rowOf.length);
  return Float64Array.from(logprobs, (logprob, t) => {
    const logr = refLogprobs[t]! - logprob;
    return estimator === "k1" ? -logr : Math.expm1(logr) - logr;
  });
}

export interface GaeInput {
  /** [N] */
  readonly rowOf: Int32Array;
  readonly rewards: ArrayLike<number>;
  /** [N] V before each token. */
  readonly values: ArrayLike<number>;
  /** [N] 0 = stepped over: value and advantage of the next unmasked token carry across (verl). */
  readonly mask: ArrayLike<number>;
  /** [R] V after the last token: 0 for a completion that ended. */
  readonly bootstrap: ArrayLike<number>;
}

/**
 * Generalised advantage estimation (Schulman et al., arXiv:1506.02438, eq. 16): δ_t = r_t +
 * γ·V_{t+1} − V_t, Â_t = δ_t + γλ·Â_{t+1}, returns Â + V. Masked tokens: advantage 0, return V.
 */
export function gae(input: GaeInput, gamma: number, lam: number): { advantages: Float64Array; returns: Float64Array } {
  const { rowOf, rewards, values, mask, bootstrap } = input;
  const advantages = new Float64Array(rowOf.length);
  let nextValue = 0;
  let nextAdvantage = 0;
  for (let t = rowOf.length - 1; t >= 0; t--) {
    if (rowOf[t] !== rowOf[t + 1]) {
      nextValue = bootstrap[rowOf[t]!]!;
      nextAdvantage = 0;
    }
    if (mask[t] === 0) continue;
    const delta = rewards[t]! + gamma * nextValue - values[t]!;
    nextAdvantage = delta + gamma * lam * nextAdvantage;
    nextValue = values[t]!;
    advantages[t] = nextAdvantage;
  }
  return { advantages, returns: advantages.map((advantage, t) => advantage + values[t]!) };
}

/**
 * (x − mean) / sqrt(var + 1e-8) with the unbiased variance (TRL: `masked_whiten`); 0 where masked.
 * @param keepMean the mean is added back (TRL's `shift_mean=False`, for rewards)
 */
export function whiten(values: Float64Array, mask: ArrayLike<number>, keepMean = false): Float64Array {
  const chosen = [...values].filter((_, t) => mask[t] !== 0);
  if (chosen.length < 2) return values.map((value, t) => (mask[t] === 0 ? 0 : value));
  const center = meanOf(chosen);
  const scale = 1 / Math.sqrt(unbiasedStd(chosen) ** 2 + 1e-8);
  const shift = keepMean ? center : 0;
  return values.map((value, t) => (mask[t] === 0 ? 0 : (value - center) * scale + shift));
}

/**
 * Adaptive KL control (Ziegler et al., arXiv:1909.08593, §2.2): the coefficient moves towards the
 * target (nats per completion), by at most 20 % of completions / horizon (in completions).
 */
export function nextKlCoef(
  klCoef: number,
  meanKl: number,
  completions: number,
  control: { readonly target: number; readonly horizon: number },
): number {
  const error = Math.min(0.2, Math.max(-0.2, meanKl / control.target - 1));
  return klCoef * (1 + (error * completions) / control.horizon);
}

/** 1 − Var(R − V) / Var(R) over unmasked tokens: 1 is perfect; null for constant returns. */
export function explainedVariance(
  values: ArrayLike<number>,
  returns: ArrayLike<number>,
  mask: ArrayLike<number>,
): number | null {
  const chosen = Array.from(mask, (_, t) => t).filter((t) => mask[t] !== 0);
  const variance = unbiasedStd(chosen.map((t) => returns[t]!)) ** 2;
  if (!(variance > 0)) return null;
  return 1 - unbiasedStd(chosen.map((t) => returns[t]! - values[t]!)) ** 2 / variance;
}
