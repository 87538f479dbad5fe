/** What a group must mean to count; the schema checks its form. Used on arrival and on recovery. */
import { MAX_REWARD, type Completion, type Task, type TrajectoryGroup } from "../../protocol/messages.js";

export interface GroupRules {
  readonly vocabSize: number;
  /** Reward functions of the run; a completion has a value, or null, for each. */
  readonly rewardNames: readonly string[];
}

/** A sampled token cannot be less probable, whatever the temperature. */
const MIN_LOGPROB = -1e4;

/** Says what is wrong with a group that answers a task; null when nothing is. */
export function groupFault(task: Task, { completions }: TrajectoryGroup, rules: GroupRules): string | null {
  if (completions.length !== task.groupSize)
    return `expected ${task.groupSize} completions, found ${completions.length}`;
  for (const [c, completion] of completions.entries()) {
    const fault = tokenFault(task, completion, rules) ?? rewardFault(completion, rules);
    if (fault !== null) return `completion ${c}: ${fault}`;
  }
  return null;
}

function tokenFault(
  { sampling: { maxNewTokens, stopIds } }: Task,
  { ids, behaviourLogprobs, finishReason }: Completion,
  { vocabSize }: GroupRules,
): string | null {
  if (ids.length === 0 || ids.length > maxNewTokens) return `expected 1 to ${maxNewTokens} tokens, found ${ids.length}`;
  const unknown = ids.find((id) => id < 0 || id >= vocabSize);
  if (unknown !== undefined) return `expected ids below ${vocabSize}, found ${unknown}`;
  const firstStop = ids.findIndex((id) => stopIds.includes(id));
  const stopsRightly = finishReason === "stop" && firstStop === ids.length - 1;
  const runsOut = finishReason === "length" && firstStop === -1 && ids.length === maxNewTokens;
  if (!stopsRightly && !runsOut)
    return `expected "${firstStop === -1 ? "length" : "stop"}" and its length to agree, found "${finishReason}" after ${ids.length} tokens`;
  const improbable = behaviourLogprobs.find((logprob) => logprob < MIN_LOGPROB);
  return improbable === undefined ? null : `expected logprobs of at least ${MIN_LOGPROB}, found ${improbable}`;
}

function rewardFault({ rewards }: Completion, { rewardNames }: GroupRules): string | null {
  const names = Object.keys(rewards);
  if (names.length !== rewardNames.length || rewardNames.some((name) => !Object.hasOwn(rewards, name)))
    return `expected rewards ${rewardNames.join(", ")}, found ${names.join(", ") || "none"}`;
  const large = Object.entries(rewards).find(([, reward]) => reward !== null && !(Math.abs(reward) <= MAX_REWARD));
  return large === undefined ? null : `expected |reward| of at most ${MAX_REWARD}, found ${large[0]} ${large[1]}`;
}
