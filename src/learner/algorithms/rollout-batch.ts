/** A rollout batch as the algorithms see it: sequences, and rewards for the advantages. */
import type { RunConfig } from "../../config/schema.js";
import type { Completion } from "../../protocol/messages.js";
import { rewardWeights, totalReward } from "../../tasks/rewards.js";
import type { SequenceGroup } from "../policy/packing.js";
import type { TrainingBatch } from "../rollouts/rollout-source.js";

export interface ScoredCompletion {
  readonly completion: Completion;
  /** Null when no reward function gave a number. */
  readonly reward: number | null;
  readonly truncated: boolean;
}

export interface RolloutBatch {
  /** One prompt with its completions for each group. */
  readonly sequences: readonly SequenceGroup[];
  /** All completions, group by group; their places are their numbers. */
  readonly completions: readonly ScoredCompletion[];
  /** Numbers of each group's completions. */
  readonly membersOf: readonly (readonly number[])[];
}

export interface AlgorithmResult {
  /** [T] advantages for each completion. */
  readonly advantages: readonly Float32Array[];
  readonly metrics: Record<string, number>;
}

export function rolloutBatch(run: RunConfig, { tasks, groups }: TrainingBatch): RolloutBatch {
  const weights = rewardWeights(run);
  const completions: ScoredCompletion[] = [];
  const membersOf = groups.map((group) =>
    group.completions.map((completion) => {
      const reward = totalReward(completion.rewards, weights);
      return completions.push({ completion, reward, truncated: completion.finishReason === "length" }) - 1;
    }),
  );
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
