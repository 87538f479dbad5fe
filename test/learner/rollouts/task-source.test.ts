import { describe, expect, it } from "vitest";
import { runConfigSchema } from "../../../src/config/schema.js";
import { UserError } from "../../../src/errors.js";
import { TaskSource } from "../../../src/learner/rollouts/task-source.js";
import { rewardWeights } from "../../../src/tasks/rewards.js";
import type { Tokenizer } from "../../../src/model/tokenizer.js";
import { taskSeed } from "../../../src/protocol/seeds.js";

/** One token per character, after one for each message's role. */
const tokenizer = {
  stopIds: [0, 1],
  chatPrompt: (messages: readonly { role: string; content: string }[]) =>
    Int32Array.from(messages.flatMap((m) => [m.role.length, ...Buffer.from(m.content)])),
} as unknown as Tokenizer;

function source(overrides: Record<string, unknown> = {}, size = 1_000, maxPositions = 512): TaskSource {
  const config = runConfigSchema.parse({
    generation_batch_size: 24,
    num_generations: 4,
    filter_groups_max_rounds: 3,
    ...overrides,
  });
  const problems = (name: string) => ({
    name,
    size,
    problem: (i: number) => ({ id: `${name}/${i}`, question: `${name} ${i}`, answer: `#### ${i}` }),
  });
  return new TaskSource(
    config,
    tokenizer,
    { train: problems("train"), validation: problems("validation") },
    { maxPositions, vocabSize: 512 },
  );
}

describe("training tasks", () => {
  it("an epoch asks every problem once, batch after batch, whichever batch is asked for first", () => {
    const tasks = source({}, 60);
    const questions = Array.from({ length: 10 }, (_, k) =>
      Array.from({ length: 6 }, (_, slot) => tasks.taskAt(k, slot, 0).problem.question),
    );
    expect(new Set(questions.flat()).size).toBe(60);
    expect(source({}, 60).taskAt(7, 2, 0)).toEqual(tasks.taskAt(7, 2, 0));
    expect(source({ seed: 1 }, 60).taskAt(7, 2, 0).problem).not.toEqual(
      source({ seed: 2 }, 60).taskAt(7, 2, 0).problem,
    );
  });

  it("carry what the design says: id, pacing, noise key, sampling, chat prompt", () => {
    const task = source({
      max_staleness: 2,
      temperature: 0.7,
      max_completion_length: 9,
      data: { system_prompt: "S", prompt_suffix: "!" },
    }).taskAt(12, 3, 1);
    const { question } = task.problem;
    expect(task).toMatchObject({ taskId: "b000012-0003-r1", kind: "train", batch: 12, groupSize: 4, minIteration: 10 });
    expect(task.sampling).toEqual({ temperature: 0.7, maxNewTokens: 9, stopIds: [0, 1] });
    expect(task.seed).toBe(taskSeed(42, "b000012-0003-r1"));
    expect([...task.promptIds]).toEqual([6, ...Buffer.from("S"), 4, ...Buffer.from(`${question}!`)]);
  });

  it("substitutes differ from each other and never move another place's problem", () => {
    const tasks = source();
    const substitutes = [0, 1].flatMap((slot) => [1, 2, 3].map((r) => tasks.taskAt(5, slot, r)));
    expect(new Set(substitutes.map((t) => t.problem.question)).size).toBe(6);
    expect(new Set(substitutes.map((t) => t.taskId)).size).toBe(6);
  });

  it("a prompt too long for the limit or the context is an error that says which and by how much", () => {
    const limited = source({ data: { max_prompt_length: 5 } });
    expect(() => limited.taskAt(0, 0, 0)).toThrow(UserError);
    expect(() => limited.taskAt(0, 0, 0)).toThrow(/at most 5 tokens, found \d+/);
    expect(() => source({ max_completion_length: 60 }, 1_000, 64).taskAt(0, 0, 0)).toThrow(/context of 64/);
  });
});

describe("evaluation tasks", () => {
  it("are the first n held-out problems for exactly one policy, sampled or greedy", () => {
    const tasks = source({ temperature: 0.8 }, 5);
    const sampled = tasks.evalTasks({ iteration: 30, n: 3, mode: "sampled", purpose: "eval" });
    expect(sampled.map((t) => t.problem.question)).toEqual(["validation 0", "validation 1", "validation 2"]);
    for (const t of sampled) expect(t).toMatchObject({ kind: "eval", batch: 30, minIteration: 30, groupSize: 1 });
    expect(sampled[0]!.sampling.temperature).toBe(0.8);
    const greedy = tasks.evalTasks({ iteration: 30, n: 99, mode: "greedy", purpose: "eval" });
    expect(greedy).toHaveLength(5);
    expect(greedy[0]!.sampling.temperature).toBe(0);
    expect(new Set([...sampled, ...greedy].map((t) => t.taskId)).size).toBe(8);
    // the same noise for the same question, so that equal weights have equal accuracy
    const later = tasks.evalTasks({ iteration: 60, n: 3, mode: "sampled", purpose: "eval" });
    expect(later.map((t) => t.seed)).toEqual(sampled.map((t) => t.seed));
    expect(new Set([...sampled, ...greedy].map((t) => t.seed)).size).toBe(8);
  });
});

describe("reward weights", () => {
  it("are named as loadRewards names them", () => {
    const { reward } = runConfigSchema.parse({
      reward: { functions: [{ name: "correctness", weight: 2 }, { name: "./mine/shorter.mjs" }], overlong_buffer: 8 },
    });
    expect(rewardWeights({ reward })).toEqual([
      { name: "correctness", weight: 2 },
      { name: "shorter", weight: 1 },
      { name: "soft_overlong", weight: 1 },
    ]);
  });
});
