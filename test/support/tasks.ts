/** Tasks and groups for tests of the rollout path; loads no sockets. */
import type { GenerateRequest, GeneratedGroup } from "../../src/engine/engine-types.js";
import { hashPacked, type PolicyVersion } from "../../src/model/identity.js";
import { layoutSize, packShapes } from "../../src/model/layout.js";
import type { Completion, Task, TrajectoryGroup } from "../../src/protocol/messages.js";
import { taskSeed } from "../../src/protocol/seeds.js";

/** 1000 float32 weights: 4000 bytes, so several chunks of 512. */
export const layout = packShapes([
  ["a", [30, 30]],
  ["b", [100]],
]);

export function weights(iteration: number): { packed: Float32Array; version: PolicyVersion } {
  const packed = Float32Array.from({ length: layoutSize(layout) }, (_, i) => i + iteration * 1_000);
  return { packed, version: { iteration, sha256: hashPacked(packed, layout) } };
}

export function makeTask(taskId: string, fields: Partial<Task> = {}): Task {
  return {
    taskId,
    kind: "train",
    batch: 0,
    promptIds: Int32Array.of(1, 2, 3),
    groupSize: 2,
    seed: taskSeed(7, taskId),
    minIteration: 0,
    sampling: { temperature: 1, maxNewTokens: 4, stopIds: [0] },
    problem: { question: "1+1?", answer: "#### 2" },
    ...fields,
  };
}

/** Tokens are a function of the task's seed alone, as the real engine's are. */
export function generate(request: GenerateRequest, version: PolicyVersion): GeneratedGroup {
  const completions = Array.from({ length: request.groupSize }, (_, c) => {
    const length = 1 + ((Number(request.seed % 97n) + c) % 3);
    const ids = Int32Array.from({ length }, (_, t) => (t === length - 1 ? 0 : 1 + t + c));
    const logprobs = Float32Array.from(ids, (id) => -(id + 1) / 8);
    return { ids, logprobs, finishReason: "stop" as const, version };
  });
  return { requestId: request.requestId, completions, timing: { queuedMs: 0, prefillMs: 1, decodeMs: 2 } };
}

/** Rewards 0, 1, 2, … by completion, unless `equal`. */
export function scored(taskId: string, generated: GeneratedGroup, actorId: string, equal = false): TrajectoryGroup {
  const completions = generated.completions.map(({ logprobs, ...rest }, c): Completion => ({
    ...rest,
    behaviourLogprobs: logprobs,
    rewards: { correctness: equal ? 1 : c },
    rewardErrors: [],
    outcome: "wrong",
  }));
  return { taskId, actorId, completions, timing: generated.timing };
}

export function answer(task: Task, version: PolicyVersion, actorId = "actor", equal = false): TrajectoryGroup {
  const { taskId: requestId, promptIds, groupSize, seed, sampling } = task;
  return scored(task.taskId, generate({ requestId, promptIds, groupSize, seed, sampling }, version), actorId, equal);
}
