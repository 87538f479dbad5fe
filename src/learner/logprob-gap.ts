/**
 * Same numbers on both sides (design: "same numbers"): the actor's log-probabilities against the learner's, for the same
 * tokens under the very weights that sampled them. Checked before training, logged at every iteration.
 */
import { UserError } from "../errors.js";
import type { Task, TrajectoryGroup } from "../protocol/messages.js";
import type { Updater } from "./update.js";

/** Larger published vectors are not kept for later comparison: they would cost memory and uploads. */
const MAX_SIZE = 64 * 1024 * 1024;

export class LogprobGap {
  readonly #updater: Updater;
  readonly #maxStaleness: number;
  /** Published vectors of the versions that may still arrive. */
  readonly #recent = new Map<number, Float32Array>();

  constructor(updater: Updater, maxStaleness: number) {
    this.#updater = updater;
    this.#maxStaleness = maxStaleness;
  }

  remember(iteration: number, published: Float32Array): void {
    if (published.length <= MAX_SIZE) this.#recent.set(iteration, published);
    this.#recent.delete(iteration - this.#maxStaleness - 1);
  }

  /**
   * Largest |actor − learner| in nats over the first completions of up to `limit` groups; null when none of them was
   * sampled by a single version that is still remembered.
   */
  async largest(
    tasks: readonly Task[],
    groups: readonly TrajectoryGroup[],
    limit = groups.length,
  ): Promise<number | null> {
    const chosen = groups
      .flatMap(({ completions: [completion] }, i) => {
        const weights = this.#recent.get(completion?.versions[0]?.iteration ?? -1);
        if (completion === undefined || weights === undefined || completion.versions.length > 1) return [];
        return [{ promptIds: tasks[i]!.promptIds, completion, weights }];
      })
      .slice(0, limit);
    let gap: number | null = null;
    for (const weights of new Set(chosen.map((one) => one.weights))) {
      const members = chosen.filter((one) => one.weights === weights);
      const sequences = members.map(({ promptIds, completion }) => ({ promptIds, completions: [completion.ids] }));
      const mine = await this.#updater.logprobsUnder(weights, sequences);
      members.forEach(({ completion }, i) =>
        completion.behaviourLogprobs.forEach(
          (theirs, t) => (gap = Math.max(gap ?? 0, Math.abs(theirs - mine[i]![t]!))),
        ),
      );
    }
    return gap;
  }
}

/** @throws UserError when actor and learner disagree: what is sampled would not be what is trained */
export function checkGap(gap: number | null, limit: number): void {
  if (gap === null || gap <= limit) return;
  throw new UserError(
    `self-test: actor and learner disagree on the log-probability of a token by ${gap.toExponential(2)} nats under the ` +
      `same weights, expected at most selftest.max_logprob_gap=${limit}. Training on such numbers is off-policy in a way ` +
      `nothing corrects; report it, or raise the limit knowingly.`,
  );
}
