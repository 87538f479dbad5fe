/** A rollout batch as the algorithms see it: sequences, and rewards for the advantages. */
import type { RunConfig } from "../../config/schema.js";
import { rewardWeights, totalReward } from "../../tasks/rewards.js";
import type { TrainingBatch } from "../rollouts/rollout-source.js";

export type RolloutBatch = ReturnType<typeof rolloutBatch>;

export interface AlgorithmResult {
  /** [T] advantages for each completion. */
  readonly advantages: readonly Float32Array[];
  readonly metrics: Record<string, number>;
}

export function rolloutBatch(run: RunConfig, { tasks, groups }: TrainingBatch) {
  const weights = rewardWeights(run);
  /** All completions, group by group; their places are their numbers. A null reward is none. */
  const completions = groups.flatMap((group) =>
    group.completions.map((completion) => ({
      completion,
      reward: totalReward(completion.rewards, weights),
      truncated: completion.finishReason === "length",
    })),
  );
  /** Numbers of each group's completions. */
  let next = 0;
  const membersOf = groups.map((group) => group.completions.map(() => next++));
  /** One prompt with its completions for each group. */
  const sequences = groups.map((group, g) => ({
    promptIds: tasks[g]!.promptIds,
    completions: group.completions.map((completion) => completion.ids),
  }));
  return { sequences, completions, membersOf };
}

/** Cuts a list into consecutive parts whose sizes differ by at most one. */
export function cut<T>(items: readonly T[], parts: number): T[][] {
  return Array.from({ length: parts }, (_, i) =>
    items.slice(Math.floor((i * items.length) / parts), Math.floor(((i + 1) * items.length) / parts)),
  );
}
