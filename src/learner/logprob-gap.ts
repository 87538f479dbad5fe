/** Actor's against learner's log-probabilities, for the same tokens under the same weights. */
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import type { Task, TrajectoryGroup } from "../protocol/messages.js";
import { publishedLogprobs, type Training } from "./policy/forward.js";

/** Completions of the start-up self-test, which actors and learner compare before training. */
export const SELFTEST_COMPLETIONS = 32;
/** Larger published vectors are not kept for comparison: they would cost memory and uploads. */
export const MAX_REMEMBERED = 64 * 1024 * 1024;

/** Statistics of |actor − learner| over tokens, in nats. */
export interface Gap {
  readonly max: number;
  readonly mean: number;
  /** 99th percentile */
  readonly p99: number;
}

export class GapMeter {
  readonly #training: Training;
  /** Published vectors of the versions that may still arrive. */
  readonly #recent = new Map<number, Float32Array>();

  constructor(training: Training) {
    this.#training = training;
  }

  remember(iteration: number, published: Float32Array): void {
    if (published.length <= MAX_REMEMBERED) this.#recent.set(iteration, published);
    this.#recent.delete(iteration - this.#training.run.max_staleness - 1);
  }

  /** @returns null when no version that sampled the groups' first completions is remembered */
  async measure(
    tasks: readonly Task[],
    groups: readonly TrajectoryGroup[],
    limit = groups.length,
  ): Promise<Gap | null> {
    const chosen = groups
      .flatMap(({ completions: [completion] }, i) => {
        const weights = this.#recent.get(completion?.version.iteration ?? -1);
        if (completion === undefined || weights === undefined) return [];
        return [{ promptIds: tasks[i]!.promptIds, completion, weights }];
      })
      .slice(0, limit);
    const gaps: number[] = [];
    for (const weights of new Set(chosen.map((one) => one.weights))) {
      const members = chosen.filter((one) => one.weights === weights);
      const sequences = members.map(({ promptIds, completion }) => ({ promptIds, completions: [completion.ids] }));
      const mine = await publishedLogprobs(this.#training, weights, sequences);
      members.forEach(({ completion }, i) =>
        completion.behaviourLogprobs.forEach((theirs, t) => gaps.push(Math.abs(theirs - mine[i]![t]!))),
      );
    }
    return gapOf(gaps);
  }
}

/** Summarises nats per token; null when there are none. What is no number counts as infinite. */
export function gapOf(differences: readonly number[]): Gap | null {
  if (differences.length === 0) return null;
  const sorted = Float64Array.from(differences, (x) => (Number.isNaN(x) ? Infinity : x)).sort();
  return {
    max: sorted.at(-1)!,
    mean: sorted.reduce((sum, x) => sum + x, 0) / sorted.length,
    p99: sorted[Math.ceil(0.99 * sorted.length) - 1]!, // nearest rank
  };
}

/** @throws UserError when actor and learner disagree on what was sampled */
export function checkGap(gap: Gap | null, limits: RunConfig["selftest"]): void {
  if (gap === null) return;
  for (const name of ["max", "mean", "p99"] as const) {
    const limit = limits[`${name}_logprob_gap`];
    if (limit === null || gap[name] <= limit) continue;
    throw new UserError(
      `self-test: actor and learner disagree on the log-probability of a token by ${gap[name].toExponential(2)} nats ` +
        `(${name}) under the same weights, expected at most selftest.${name}_logprob_gap=${limit}. Training on such ` +
        `numbers is off-policy in a way nothing corrects; report it, or raise the limit knowingly.`,
    );
  }
}

/** What the numbers of less than float32 cost, in a line. */
export function describeGap({ mean, max }: Gap, actor: string, learner: string): string {
  const sides = `actor (${actor}) and learner (${learner})`;
  return `self-test: ${sides} differ by ${mean.toExponential(1)} nats a token, at most ${max.toExponential(1)}`;
}
