import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";
import { afterAll, describe, expect, it, vi } from "vitest";
import { runConfigSchema } from "../../src/config/schema.js";
import { loadTokenizer } from "../../src/model/tokenizer.js";
import {
  type Reward,
  type RewardFunction,
  type ScoredText,
  loadRewards,
  scoreGroup,
  scoreTexts,
  softOverlongPunishment,
  totalReward,
} from "../../src/tasks/rewards.js";

const folder = mkdtempSync(join(tmpdir(), "finellama-rewards-"));
afterAll(() => rmSync(folder, { recursive: true }));
const module = (name: string, source: string): string => {
  const file = join(folder, name);
  writeFileSync(file, source);
  return file;
};
const configOf = (...names: string[]) => ({
  ...runConfigSchema.parse({}).reward,
  functions: names.map((name) => ({ name, weight: 1 })) as [{ name: string; weight: number }],
});
const text = (completion: string, changes: Partial<ScoredText> = {}): ScoredText => ({
  text: completion,
  ids: new Int32Array(5),
  question: "Q",
  answer: "50+3=53\n#### 53",
  finishReason: "stop",
  ...changes,
});
const reward = (name: string, score: RewardFunction): Reward => ({ name, weight: 1, score });

describe("built-in rewards", () => {
  it("pay for the right answer and for the form, independently", async () => {
    const rewards = await loadRewards(configOf("correctness", "format"), 64);
    const scored = await scoreTexts(
      [text("#### 53"), text("#### 54"), text("#### 53 eggs"), text("53"), text("50+3=5", { finishReason: "length" })],
      rewards,
    );
    expect(scored.map((s) => [s.rewards["correctness"], s.rewards["format"], s.outcome])).toEqual([
      [1, 1, "correct"],
      [0, 1, "wrong"],
      [1, 0, "correct"],
      [0, 0, "unparsed"],
      [0, 0, "truncated"],
    ]);
    expect(scored.every((s) => s.rewardErrors.length === 0)).toBe(true);
  });

  it("read the text without the stop token, which still counts in the length", async () => {
    const tokenizer = loadTokenizer(fileURLToPath(new URL("../../assets/starter", import.meta.url)));
    const ids = tokenizer.encode("First total: 50+3=53\n#### 53<|im_end|>");
    const seen: ScoredText[] = [];
    const spy = reward("spy", (completions) => (seen.push(...completions), completions.map(() => 0)));
    const problem = { question: "Q", answer: "#### 53" };
    const scored = await scoreGroup(tokenizer, [spy], problem, [
      { ids, finishReason: "stop" },
      { ids: ids.subarray(0, -1), finishReason: "length" },
    ]);
    expect(seen[0]).toMatchObject({ text: "First total: 50+3=53\n#### 53", ids, ...problem, finishReason: "stop" });
    expect(seen[1]?.text).toBe("First total: 50+3=53\n#### 53");
    expect(scored.map((s) => s.outcome)).toEqual(["correct", "truncated"]);
  });
});

describe("the soft overlong punishment", () => {
  it("is DAPO's eq. 13: none, then linear, then -1", () => {
    // maxLength 100, buffer 20: free up to 80 tokens; at 85 it is (80 - 85) / 20.
    expect([1, 80, 85, 90, 100, 101].map((n) => softOverlongPunishment(n, 100, 20))).toEqual([
      0, 0, -0.25, -0.5, -1, -1,
    ]);
  });

  it("joins the rewards by config, on the number of tokens", async () => {
    const rewards = await loadRewards({ ...configOf("correctness"), overlong_buffer: 4 }, 8);
    expect(rewards.map(({ name, weight }) => [name, weight])).toEqual([
      ["correctness", 1],
      ["soft_overlong", 1],
    ]);
    const scored = await scoreTexts([text("#### 53", { ids: new Int32Array(6) })], rewards);
    expect(scored[0]?.rewards).toEqual({ correctness: 1, soft_overlong: -0.5 });
    await expect(loadRewards({ ...configOf("correctness"), overlong_buffer: 9 }, 8)).rejects.toThrow(
      /at most max_completion_length \(8\), found 9/,
    );
  });
});

describe("a user's module", () => {
  it("scores groups, async and with null, under its file's name", async () => {
    const file = module(
      "short.mjs",
      "export default async (completions) => completions.map((c) => (c.text === '' ? null : 1 / c.ids.length));",
    );
    const rewards = await loadRewards({ ...configOf("correctness", file) }, 64);
    expect(rewards.map(({ name }) => name)).toEqual(["correctness", "short"]);
    const scored = await scoreTexts([text("#### 53"), text("")], rewards);
    expect(scored.map((s) => s.rewards)).toEqual([
      { correctness: 1, short: 0.2 },
      { correctness: 0, short: null },
    ]);
    expect(scored.flatMap((s) => s.rewardErrors)).toEqual([]);
  });

  it("that is never loaded is refused for that, and no key of the configuration is blamed", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      const file = module("never.mjs", "await new Promise(() => {}); export default () => [];");
      const refused = expect(loadRewards(configOf(file), 64)).rejects.toThrow(
        /never\.mjs: .* no answer within 60 s \(an await outside its functions never ends\)$/,
      );
      await vi.advanceTimersByTimeAsync(60_000);
      await refused;
    } finally {
      vi.useRealTimers();
    }
  });

  it("that cannot serve is refused with what is wrong", async () => {
    await expect(loadRewards(configOf("corectness"), 64)).rejects.toThrow(
      /expected correctness, format or a path to an ES module .* found "corectness"/,
    );
    await expect(loadRewards(configOf("toString"), 64)).rejects.toThrow(/found "toString"/);
    await expect(loadRewards(configOf(join(folder, "none.mjs")), 64)).rejects.toThrow(/none\.mjs, found nothing/);
    await expect(loadRewards(configOf(module("broken.mjs", "throw new Error('boom')")), 64)).rejects.toThrow(
      /broken\.mjs: .*boom/,
    );
    await expect(loadRewards(configOf(module("empty.mjs", "export const x = 1;")), 64)).rejects.toThrow(
      /expected a default export .* found undefined/,
    );
    await expect(loadRewards(configOf(module("list.mjs", "export default [1];")), 64)).rejects.toThrow(
      /found object\. Export a function\.$/,
    );
    await expect(loadRewards(configOf("format", module("format.mjs", "export default () => [];")), 64)).rejects.toThrow(
      /"format" twice/,
    );
  });
});

describe("a failing reward function", () => {
  const failing: [string, RewardFunction, RegExp][] = [
    [
      "throws",
      () => {
        throw new RangeError("boom");
      },
      /^f: RangeError: boom$/,
    ],
    ["rejects", () => Promise.reject(new SyntaxError("later")), /^f: SyntaxError: later$/],
    [
      "throws a text",
      () => {
        throw "just text";
      },
      /^f: Error: just text$/,
    ],
    ["returns too few", () => [1], /^f: TypeError: expected an array of 2 rewards, found 1 entries$/],
    ["returns no array", () => undefined as never, /^f: TypeError: expected an array of 2 rewards, found undefined$/],
  ];
  it.each(failing)(
    "that %s gives null and an error by type for each completion, and spares the other functions",
    async (_, score, message) => {
      const scored = await scoreTexts(
        [text("#### 53"), text("#### 54")],
        [reward("f", score), reward("ok", (c) => c.map(() => 2))],
      );
      for (const { rewards, rewardErrors } of scored) {
        expect(rewards).toEqual({ f: null, ok: 2 });
        expect(rewardErrors).toHaveLength(1);
        expect(rewardErrors[0]).toMatch(message);
      }
      expect(scored.map((s) => s.outcome)).toEqual(["correct", "wrong"]);
    },
  );

  it.each([NaN, Infinity, "1", undefined, true])("value %s is an error of its completion alone", async (value) => {
    const scored = await scoreTexts([text("a"), text("b")], [reward("f", () => [value as number, 3])]);
    expect(scored.map((s) => s.rewards["f"])).toEqual([null, 3]);
    expect(scored[0]?.rewardErrors).toEqual([
      `f: TypeError: expected a finite number or null, found ${inspect(value)}`,
    ]);
    expect(scored[1]?.rewardErrors).toEqual([]);
  });
});

describe("user code is kept apart", () => {
  it("each function has copies: what it sorts, reverses or writes to changes nobody else", async () => {
    const given = [text("#### 53"), text("#### 54"), text("none")].map((one, i) => ({
      ...one,
      ids: Int32Array.of(i, 9),
    }));
    const vandal = reward("vandal", (completions) => {
      const mine = completions as ScoredText[];
      for (const one of mine as { text: string; answer: string; ids: Int32Array }[]) {
        one.text = "#### 0";
        one.answer = "#### 0";
        one.ids.reverse();
      }
      mine.sort((a, b) => b.ids[0]! - a.ids[0]!).reverse();
      mine.length = 1;
      return [1, 2, 3];
    });
    const seen: ScoredText[] = [];
    const witness = reward("witness", (completions) => (seen.push(...completions), [0, 0, 0]));
    const scored = await scoreTexts(given, [vandal, ...(await loadRewards(configOf("correctness"), 64)), witness]);
    expect(scored.map((s) => [s.rewards["vandal"], s.rewards["correctness"], s.outcome])).toEqual([
      [1, 1, "correct"],
      [2, 0, "wrong"],
      [3, 0, "unparsed"],
    ]);
    expect(seen).toEqual(given);
    expect(given.map(({ ids }) => [...ids])).toEqual([
      [0, 9],
      [1, 9],
      [2, 9],
    ]);
  });

  it.each<[string, () => unknown, RegExp]>([
    ["never answers", () => new Promise(() => {}), /^TimeoutError: no answer within 0.05 s/],
    [
      "answers too late, with an error",
      () => sleep(100).then(() => Promise.reject(new Error("late"))),
      /^TimeoutError/,
    ],
    [
      "leaves holes",
      () => Object.assign([], { length: 2 }),
      /^TypeError: expected a finite number or null, found undefined/,
    ],
    ["gives words", () => ["1", "1"], /found '1'/],
    ["gives truth", () => [true, true], /found true/],
    ["gives big integers", () => [1n, 1n], /found 1n/],
    ["gives infinite rewards", () => [Infinity, Infinity], /found Infinity/],
    ["gives rewards that make gradients infinite", () => [1e308, -1e308], /^RangeError: expected a reward of at most/],
    ["gives too few", () => [1], /expected an array of 2 rewards, found 1 entries/],
    ["gives too many", () => [1, 2, 3], /found 3 entries/],
    ["gives an object that looks like an array", () => ({ length: 2, 0: 1, 1: 1 }), /found object/],
    ["gives nothing", () => undefined, /found undefined/],
    ["throws a page of HTML", () => Promise.reject(new Error("502 " + "<html>".repeat(5_000))), /^Error: 502 <html>/],
    ["throws no error", () => Promise.reject({ code: 7 }), /^Error: \{ code: 7 \}/],
    ["throws nothing", () => Promise.reject(undefined), /^Error: undefined/],
  ])("one that %s gives null and an error of a line", async (_, act, message) => {
    const bad = reward("bad", act as RewardFunction);
    const good = reward("good", () => [1, 2]);
    const scored = await scoreTexts([text("#### 53"), text("")], [bad, good], 50);
    expect(scored.map((s) => s.rewards["good"])).toEqual([1, 2]);
    for (const { rewards, rewardErrors } of scored) {
      expect(rewards["bad"]).toBeNull();
      expect(rewardErrors).toHaveLength(1);
      expect(rewardErrors[0]!.replace(/^bad: /, "")).toMatch(message);
      expect(rewardErrors[0]!.length).toBeLessThan(600);
    }
    await sleep(100); // a late rejection ends nothing
  });
});

describe("the total reward", () => {
  const functions = [
    { name: "a", weight: 2 },
    { name: "b", weight: -0.5 },
  ];
  it("is the weighted sum of what applies, null when nothing does", () => {
    expect(totalReward({ a: 3, b: 4 }, functions)).toBe(4);
    expect(totalReward({ a: 3, b: null }, functions)).toBe(6);
    expect(totalReward({ a: 0, b: null }, functions)).toBe(0);
    expect(totalReward({ a: null, b: null }, functions)).toBeNull();
    expect(totalReward({}, functions)).toBeNull();
  });
});
