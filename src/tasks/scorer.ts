/**
 * From sampled tokens to a trajectory group: the step between an engine and whoever learns from it.
 */
import type { GeneratedGroup } from "../engine/engine-types.js";
import type { Tokenizer } from "../model/tokenizer.js";
import type { Task, TrajectoryGroup } from "../protocol/messages.js";
import type { Reward } from "./rewards.js";
import { scoreGroup } from "./rewards.js";

export type Scorer = (task: Task, generated: GeneratedGroup, actorId: string) => Promise<TrajectoryGroup>;

/** Scores groups with these rewards; the texts they read come from this tokenizer. */
export function makeScorer(tokenizer: Tokenizer, rewards: readonly Reward[]): Scorer {
  return async (task, { completions, timing }, actorId) => {
    const scores = await scoreGroup(tokenizer, rewards, task.problem, completions);
    const scored = completions.map(({ logprobs, ...completion }, i) => ({
      ...completion,
      behaviourLogprobs: logprobs,
      ...scores[i]!,
    }));
    return { taskId: task.taskId, actorId, completions: scored, timing };
  };
}
