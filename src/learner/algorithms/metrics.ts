/** Metrics of an iteration under TRL's names, from batches and from the sums that losses return. */
import type { RunConfig } from "../../config/schema.js";
import type { Completion } from "../../protocol/messages.js";
import { sum } from "../../math/statistics.js";
import { mergeMetrics } from "../policy/loss.js";
import type { StepResult } from "../policy/step.js";
import type { Gap } from "../logprob-gap.js";
import type { TrainingBatch } from "../rollouts/rollout-source.js";
import type { RolloutBatch } from "./rollout-batch.js";

export const meanOf = (values: readonly number[]): number => sum(values) / Math.max(1, values.length);

export const shareOfTrue = (flags: readonly boolean[]): number =>
  flags.filter(Boolean).length / Math.max(1, flags.length);

/** Standard deviation with n − 1 in the denominator; 0 for fewer than two values. */
export function unbiasedStd(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const mean = meanOf(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
}

/** Sums the metrics of an iteration's optimizer steps; loss and gradient norm are means. */
export function overSteps(results: readonly StepResult[]) {
  const share = (of: (result: StepResult) => number): number => sum(results.map((one) => of(one) / results.length));
  return {
    sums: results.map(({ metrics }) => metrics).reduce(mergeMetrics, {}),
    means: { loss: share(({ loss }) => loss), grad_norm: share(({ gradNorm }) => gradNorm) },
  };
}

export function tokenMetrics(sums: Record<string, number>): Record<string, number> {
  const tokens = Math.max(1, sums.tokens_sum ?? 0);
  const named: [name: string, sum: string, divisor?: number][] = [
    ["clip_ratio/low_mean", "clip_low_sum"],
    ["clip_ratio/high_mean", "clip_high_sum"],
    ["clip_ratio/region_mean", "clip_region_sum"],
    ["policy/approxkl", "approxkl_sum"],
    ["kl", "kl_sum"],
    ["entropy", "entropy_sum"],
    ["sampling/importance_sampling_ratio/mean", "sampling_ratio_sum"],
    ["sampling/sampling_logp_difference/mean", "sampling_gap_sum"],
    ["sampling/importance_sampling_ratio/max", "sampling_ratio_max", 1],
  ];
  return Object.fromEntries(
    named.flatMap(([name, sum, divisor = tokens]) => (sums[sum] === undefined ? [] : [[name, sums[sum] / divisor]])),
  );
}

export function rewardMetrics({ completions }: RolloutBatch): Record<string, number> {
  const scored = completions.flatMap(({ reward }) => reward ?? []);
  const lengths = completions.map(({ completion }) => completion.ids.length);
  const functions = Object.keys(completions[0]?.completion.rewards ?? {});
  const outcome = (name: Completion["outcome"]): number =>
    shareOfTrue(completions.map(({ completion }) => completion.outcome === name));
  const rewardsOf = (name: string): number[] => completions.flatMap(({ completion }) => completion.rewards[name] ?? []);
  return {
    // a mean of no rewards would be a 0 that nobody gave
    ...(scored.length > 0 && { reward: meanOf(scored), reward_std: unbiasedStd(scored) }),
    ...Object.fromEntries(
      functions.flatMap((name) => {
        const given = rewardsOf(name);
        return given.length === 0 ? [] : [[`rewards/${name}/mean`, meanOf(given)]];
      }),
    ),
    accuracy: outcome("correct"),
    "outcome/unparsed": outcome("unparsed"),
    "outcome/truncated": outcome("truncated"),
    reward_errors: completions.reduce((sum, { completion }) => sum + completion.rewardErrors.length, 0),
    "completions/mean_length": meanOf(lengths),
    "completions/min_length": Math.min(...lengths),
    "completions/max_length": Math.max(...lengths),
    "completions/clipped_ratio": shareOfTrue(completions.map(({ truncated }) => truncated)),
  };
}

/** Time an iteration took, in seconds of wall time. */
export interface IterationTimes {
  /** From asking for the batch to the record of its advantages. */
  readonly seconds: number;
  readonly waited: number;
  /** The whole run so far. */
  readonly wall: number;
}

/** Measures how the rollouts of a batch were made: staleness, speed, idle shares, and the gap. */
export function rolloutMetrics(
  run: RunConfig,
  batch: TrainingBatch,
  iteration: number,
  gap: Gap | null,
  times: IterationTimes,
): Record<string, number> {
  const completions = batch.groups.flatMap((group) => group.completions);
  const staleness = completions.map(({ version }) => iteration - version.iteration);
  const tokens = completions.reduce((sum, { ids }) => sum + ids.length, 0);
  return {
    "staleness/mean": meanOf(staleness),
    "staleness/max": Math.max(...staleness),
    ...(gap === null
      ? {}
      : { "sampling/actor_learner_logprob_gap/max": gap.max, "sampling/actor_learner_logprob_gap/mean": gap.mean }),
    filtered_groups: batch.filteredGroups,
    "idle/learner": times.waited / times.seconds,
    "idle/actor": batch.actorIdleSeconds / Math.max(1e-9, batch.actorIdleSeconds + batch.actorBusySeconds),
    iteration_seconds: times.seconds,
    tokens,
    tokens_per_second: tokens / times.seconds,
    completions_per_second: (batch.groups.length * run.num_generations) / times.seconds,
    wall_seconds: times.wall,
  };
}
