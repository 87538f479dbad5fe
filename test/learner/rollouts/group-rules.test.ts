/** Every kind of well-formed but impossible answer is refused with its reason. */
import { describe, expect, it } from "vitest";
import { groupFault } from "../../../src/learner/rollouts/group-rules.js";
import type { Completion, Task, TrajectoryGroup } from "../../../src/protocol/messages.js";

const rules = { vocabSize: 100, rewardNames: ["correctness", "format"] };
const task: Task = {
  taskId: "b000000-0000",
  kind: "train",
  batch: 0,
  promptIds: Int32Array.of(1, 2),
  groupSize: 2,
  seed: 1n,
  minIteration: 0,
  sampling: { temperature: 1, maxNewTokens: 3, stopIds: [0, 7] },
  problem: { question: "?", answer: "#### 1" },
};
const good: Completion = {
  ids: Int32Array.of(5, 7),
  behaviourLogprobs: Float32Array.of(-1, -2),
  finishReason: "stop",
  version: { iteration: 0, sha256: "a".repeat(64) },
  rewards: { correctness: 1, format: null },
  rewardErrors: [],
  outcome: "correct",
};
const long: Completion = {
  ...good,
  ids: Int32Array.of(5, 6, 8),
  behaviourLogprobs: Float32Array.of(-1, -2, -3),
  finishReason: "length",
};
const group = (...completions: Completion[]): TrajectoryGroup => ({
  taskId: task.taskId,
  actorId: "a",
  completions,
  timing: { queuedMs: 0, prefillMs: 0, decodeMs: 0 },
});

it("takes answers that end in a stop token or fill their length", () => {
  expect(groupFault(task, group(good, long), rules)).toBeNull();
  const single = { ...good, ids: Int32Array.of(0), behaviourLogprobs: Float32Array.of(-1) };
  expect(groupFault(task, group(good, single), rules)).toBeNull();
});

describe("refuses a group with", () => {
  const faults: [string, Partial<Completion>, RegExp][] = [
    [
      "an empty completion",
      { ids: new Int32Array(0), behaviourLogprobs: new Float32Array(0) },
      /1 to 3 tokens, found 0/,
    ],
    ["too many tokens", { ids: Int32Array.of(1, 2, 3, 4) }, /1 to 3 tokens, found 4/],
    ["an id beyond the vocabulary", { ids: Int32Array.of(100, 7) }, /ids below 100, found 100/],
    ["a huge id", { ids: Int32Array.of(1_000_000, 7) }, /ids below 100, found 1000000/],
    ["a negative id", { ids: Int32Array.of(-1, 7) }, /ids below 100, found -1/],
    ["a stop without a stop token", { ids: Int32Array.of(5, 6) }, /found "stop" after 2 tokens/],
    ["tokens after a stop token", { ids: Int32Array.of(7, 7) }, /found "stop" after 2 tokens/],
    ["a stop token told as length", { finishReason: "length" }, /found "length" after 2 tokens/],
    [
      "a length that was not reached",
      { ids: Int32Array.of(5), finishReason: "length" },
      /found "length" after 1 tokens/,
    ],
    ["an impossible log-probability", { behaviourLogprobs: Float32Array.of(-1e30, -1) }, /logprobs of at least -10000/],
    ["no rewards", { rewards: {} }, /expected rewards correctness, format, found none/],
    ["a reward too few", { rewards: { correctness: 1 } }, /found correctness/],
    ["a reward too many", { rewards: { correctness: 1, format: 1, bonus: 9 } }, /found correctness, format, bonus/],
    ["a reward of another name", { rewards: { correctness: 1, __proto__x: 1 } }, /found correctness, __proto__x/],
    ["a reward that makes gradients infinite", { rewards: { correctness: 1e308, format: 0 } }, /\|reward\|/],
    ["a large negative reward", { rewards: { correctness: -1e7, format: 0 } }, /\|reward\|/],
    ["a reward that is no number", { rewards: { correctness: Number.NaN, format: 0 } }, /\|reward\|/],
    ["an infinite reward", { rewards: { correctness: Infinity, format: 0 } }, /\|reward\|/],
  ];
  it.each(faults)("%s", (_, change, reason) => {
    expect(groupFault(task, group(long, { ...good, ...change }), rules)).toMatch(reason);
    expect(groupFault(task, group(long, { ...good, ...change }), rules)).toMatch(/^completion 1: /);
  });

  it("too few or too many completions", () => {
    expect(groupFault(task, group(good), rules)).toBe("expected 2 completions, found 1");
    expect(groupFault(task, group(good, good, good), rules)).toBe("expected 2 completions, found 3");
  });
});
