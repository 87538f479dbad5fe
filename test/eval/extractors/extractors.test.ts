import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { extractors } from "../../../src/eval/extractors/extractors.js";
import { qwenAnswer } from "../../../src/eval/extractors/qwen-math.js";
import { extractAnswer } from "../../../src/tasks/extract.js";

type Case = [
  text: string,
  gold: string,
  strict: string,
  flexible: string,
  verl: string | null,
  boxed: string,
  verdicts: string,
];
const golden = JSON.parse(readFileSync(new URL("../../golden/extractors.json", import.meta.url), "utf8")) as {
  gsm8k: Record<string, { texts: number; right: number[]; sha256: string }>;
  cases: Case[];
};

const foreign = [extractors.lm_eval_strict, extractors.lm_eval_flexible, extractors.verl, extractors.boxed] as const;
/** Answers and verdicts in the golden file's form. */
const judge = (text: string, gold: string): [...answers: (string | null)[], verdicts: string] => {
  const [strict, flexible, verl, boxed] = foreign.map((extract) => extract(text, gold));
  return [
    strict!.answer ?? "[invalid]",
    flexible!.answer ?? "[invalid]",
    verl!.answer ?? null,
    qwenAnswer(text),
    [strict, flexible, verl, boxed].map((reading) => Number(reading!.correct)).join(""),
  ];
};

describe("on adversarial texts", () => {
  it("there are at least 300 of them", () => {
    expect(new Set(golden.cases.map(([text, gold]) => `${text}|${gold}`)).size).toBeGreaterThanOrEqual(300);
  });

  it.each([
    ["lm-eval strict", 0],
    ["lm-eval flexible", 1],
    ["verl", 2],
    ["boxed", 3],
  ])("%s: every answer is its owner's", (_, which) => {
    for (const [text, gold, ...expected] of golden.cases)
      expect(judge(text, gold)[which], JSON.stringify(text)).toBe(expected[which]);
  });

  it.each([
    ["lm-eval strict", 0],
    ["lm-eval flexible", 1],
    ["verl", 2],
  ])("%s: every verdict is its owner's", (_, which) => {
    for (const [text, gold, , , , , verdicts] of golden.cases)
      expect(judge(text, gold)[4]![which], JSON.stringify([text, gold])).toBe(verdicts[which]);
  });

  it("boxed: every verdict is its owner's, save for a unit not on its list, numbers in words and algebra on slips", () => {
    const different = golden.cases.filter(([text, gold, , , , , verdicts]) => judge(text, gold)[4]![3] !== verdicts[3]);
    const answers = new Set(different.map(([, , , , , boxed]) => boxed));
    const words = ["3 dollars", "1234 dollars", "three", "seventy thousand", "١٨"];
    const slips = ["'0'", "'1234'", "+-5", "--0", "--18", "-5:", "0-5", "0:", "18:", "70000_"];
    slips.push("1234:\\text{ apples}", "\\text{70000:}");
    expect([...answers].toSorted()).toEqual([...words, ...slips].toSorted());
  });

  it("one text, five readings", () => {
    const text = "so \\boxed{18}\n#### 18.00\n#### $19";
    const read = Object.entries(extractors).map(([name, extract]) => [name, extract(text, "#### 18")]);
    expect(Object.fromEntries(read)).toEqual({
      ours: { answer: "19", correct: false },
      lm_eval_strict: { answer: "18.00", correct: false },
      lm_eval_flexible: { answer: "$19", correct: false },
      verl: { answer: "18.00", correct: false },
      boxed: { answer: "18", correct: true },
    });
  });

  it("ours reads what training rewards", () => {
    for (const [text, gold] of golden.cases)
      expect(extractors.ours(text, gold).answer).toBe(extractAnswer(text)?.value);
  });
});

const folder = new URL("../../../../shared/gsm8k/", import.meta.url);
describe.skipIf(!existsSync(folder))("on GSM8K (skipped where its files are absent)", () => {
  it.each(Object.keys(golden.gsm8k))("%s: on every gold answer, in five frames, as their owners", (split) => {
    const digest = createHash("sha256");
    const right = [0, 0, 0, 0];
    let texts = 0;
    for (const line of readFileSync(new URL(`${split}.jsonl`, folder), "utf8").split("\n")) {
      if (line === "") continue;
      const gold = (JSON.parse(line) as { answer: string }).answer;
      const number = gold.split("#### ")[1]!;
      for (const text of [
        gold,
        `The answer is $${number}.`,
        `so \\boxed{${number}}.`,
        `#### ${number}.00`,
        `${gold}\nThat is all.`,
      ]) {
        const judged = judge(text, gold);
        digest.update(`${JSON.stringify(judged)}\n`);
        for (const [i, verdict] of Array.from(judged[4]!).entries()) right[i]! += Number(verdict);
        texts++;
      }
    }
    expect({ texts, right, sha256: digest.digest("hex") }).toEqual(golden.gsm8k[split]);
  });
});
