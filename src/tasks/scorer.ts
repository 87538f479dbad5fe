/** From sampled tokens to a trajectory group: the step between an engine and the learner. */
import type { Tokenizer } from "../model/tokenizer.js";
import type { Completion, Task, Timing, TrajectoryGroup } from "../protocol/messages.js";
import { type Reward, scoreGroup } from "./rewards.js";

/** A group as an engine gives it, without rewards. */
interface SampledGroup {
  readonly completions: readonly (Pick<Completion, "ids" | "finishReason" | "version"> & {
    readonly logprobs: Float32Array;
  })[];
  readonly timing: Timing;
}

export type Scorer = (task: Task, sampled: SampledGroup, actorId: string) => Promise<TrajectoryGroup>;

/** Scores groups with these rewards; the texts they read come from this tokenizer. */
export function makeScorer(tokenizer: Tokenizer, rewards: readonly Reward[], timeoutMs?: number): Scorer {
  return async (task, { completions, timing }, actorId) => {
    const scores = await scoreGroup(tokenizer, rewards, task.problem, completions, timeoutMs);
    const scored = completions.map(({ logprobs, ...completion }, i) => ({
      ...completion,
      behaviourLogprobs: logprobs,
      ...scores[i]!,
    }));
    return { taskId: task.taskId, actorId, completions: scored, timing };
  };
}
