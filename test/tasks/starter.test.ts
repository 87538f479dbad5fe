import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { writeStarterCorpus } from "../../src/tasks/starter-corpus.js";
import { loadTokenizer } from "../../src/model/tokenizer.js";
import { goldAnswer, isWellFormed } from "../../src/tasks/extract.js";
import { type Problem, starterCorpus, starterProblem } from "../../src/tasks/starter.js";
import { templates } from "../../src/tasks/templates.js";

const folder = mkdtempSync(join(tmpdir(), "finellama-starter-"));
afterAll(() => rmSync(folder, { recursive: true }));
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

const equationPattern = /(\d+)([-+*/])(\d+)=(\d+)/g;
interface Equation {
  readonly left: number;
  readonly operation: string;
  readonly right: number;
  readonly result: number;
  /** What the left side really comes to. */
  readonly exact: number;
}
/** Every `a+b=c` of a solution, worked out again here. */
function equations(answer: string): Equation[] {
  return [...answer.matchAll(equationPattern)].map((match) => {
    const [left, right, result] = [Number(match[1]), Number(match[3]), Number(match[4])];
    const exact = { "+": left + right, "-": left - right, "*": left * right, "/": left / right }[
      match[2] as "+" | "-" | "*" | "/"
    ];
    return { left, operation: match[2] as string, right, result, exact };
  });
}
const numbersOf = (text: string): number[] => (text.match(/\d+/g) ?? []).map(Number);

const names = /\b(Anna|Ben|Dan|Emma|Jack|Kate|Leo|Sam)\b/g;
const things = /\b(apples|balls|cards|coins|cups|eggs|nuts|pears|stamps|toys)\b/g;
/**
 * The question with its names and things masked: what remains makes it another problem or the same
 * one.
 */
function skeleton(question: string): string {
  const seen: string[] = [];
  return question.replace(things, "I").replace(names, (name) => {
    if (!seen.includes(name)) seen.push(name);
    return `N${seen.indexOf(name)}`;
  });
}

describe("a starter problem", () => {
  const problems = range(5000).map((i) => starterProblem("train", i));

  /** The problems that break a rule: expect() once, not once a problem. */
  const breaking = (keepsRule: (problem: Problem) => boolean): Problem[] =>
    problems.filter((problem) => !keepsRule(problem));

  it("has a worked answer of one to three right steps, on numbers of the question or earlier results", () => {
    const rule = ({ question, answer }: Problem): boolean => {
      const steps = equations(answer);
      const known = numbersOf(question);
      const sound = steps.every(({ left, right, result, exact }) => {
        const fits = result === exact && known.includes(left) && known.includes(right);
        known.push(result);
        return fits;
      });
      return (
        sound &&
        steps.length >= 1 &&
        steps.length <= 3 &&
        isWellFormed(answer) &&
        Number(goldAnswer(answer)) === steps.at(-1)?.result
      );
    };
    expect(breaking(rule)).toEqual([]);
  });

  it("keeps its numbers small: operands 2 to 150, results 1 to 150, all whole", () => {
    const rule = ({ question, answer }: Problem): boolean =>
      numbersOf(question).every((n) => n >= 2 && n <= 150) &&
      equations(answer).every(({ result }) => Number.isInteger(result) && result >= 1 && result <= 150);
    expect(breaking(rule)).toEqual([]);
  });

  it("is an English sentence or more, its blanks all filled", () => {
    const rule = ({ question }: Problem): boolean =>
      /^[A-Z][A-Za-z0-9 ,.]+\?$/.test(question) && question.split(" ").length <= 40;
    expect(breaking(rule)).toEqual([]);
  });

  it("comes from at least 20 templates, of one to three steps, over the four operations", () => {
    expect(templates.length).toBeGreaterThanOrEqual(20);
    const kinds = new Set(problems.map(({ question }) => skeleton(question).replace(/\d+/g, "#")));
    expect(kinds.size).toBe(templates.length);
    const lengths = new Map<number, number>();
    const operations = new Map<string, number>();
    for (const { answer } of problems) {
      const steps = equations(answer);
      lengths.set(steps.length, (lengths.get(steps.length) ?? 0) + 1);
      for (const { operation } of steps) operations.set(operation, (operations.get(operation) ?? 0) + 1);
    }
    for (const n of [1, 2, 3]) expect(lengths.get(n)).toBeGreaterThan(problems.length / 10);
    for (const operation of ["+", "-", "*", "/"])
      expect(operations.get(operation)).toBeGreaterThan(problems.length / 20);
  });

  it("is the same whenever its index is asked for", () => {
    for (const i of [0, 17, 2 ** 31 - 1, 2 ** 40])
      expect(starterProblem("train", i)).toEqual(problems[i] ?? starterProblem("train", i));
    // A pin: results on the validation problems are comparable only while these stay what they are.
    expect(starterProblem("validation", 0)).toMatchInlineSnapshot(`
      {
        "answer": "First some: 30-16=14
      Then each: 14/2=7
      #### 7",
        "id": "starter/validation/0",
        "question": "Jack has 30 pears, shares some equally among 2 friends and has 16 pears left. How many pears does each friend get?",
      }
    `);
    expect(new Set(problems.map(({ question }) => question)).size).toBeGreaterThan(4000);
  });

  it("is short in tokens: prompts at most 55, answers at most 48", () => {
    const tokenizer = loadTokenizer(fileURLToPath(new URL("../../assets/starter", import.meta.url)));
    let [promptTokens, answerTokens] = [0, 0];
    for (const { question, answer } of problems.slice(0, 500)) {
      const prompt = tokenizer.chatPrompt([{ role: "user", content: question }]).length;
      const length = tokenizer.encode(answer).length;
      expect(prompt).toBeLessThanOrEqual(55);
      expect(length).toBeLessThanOrEqual(48);
      promptTokens += prompt;
      answerTokens += length;
    }
    expect(promptTokens / 500).toBeLessThan(42);
    expect(answerTokens / 500).toBeLessThan(35);
  });
});

describe("training and validation", () => {
  it("share no problem, not even under other names, in 50,000 of each and 50,000 of the corpus", () => {
    const validation = new Set(range(50_000).map((i) => skeleton(starterProblem("validation", i).question)));
    expect(validation.size).toBeGreaterThan(1000);
    const shared = range(50_000).filter(
      (i) =>
        validation.has(skeleton(starterProblem("train", i).question)) ||
        validation.has(skeleton(starterCorpus(i).question)),
    );
    expect(shared).toEqual([]);
  }, 30_000);

  it("test shares none with training or validation", () => {
    const test = new Set(range(2048).map((i) => skeleton(starterProblem("test", i).question)));
    const twin = (split: "train" | "validation", n: number): number[] =>
      range(n).filter((i) => test.has(skeleton(starterProblem(split, i).question)));
    expect(twin("validation", 2048)).toEqual([]);
    expect(twin("train", 20_000)).toEqual([]);
  });

  it("ask the same kinds of question", () => {
    const kinds = (split: "train" | "validation"): string[] => [
      ...new Set(range(5000).map((i) => skeleton(starterProblem(split, i).question).replace(/\d+/g, "#"))),
    ];
    expect(kinds("validation").sort()).toEqual(kinds("train").sort());
  });
});

describe("the corpus", () => {
  const mix = { careful: 0.45, terse: 0.25 };
  const samples = range(6000).map((i) => starterCorpus(i, 5, mix));
  const ofStyle = (style: string): typeof samples => samples.filter((sample) => sample.style === style);

  it("has the shares asked for", () => {
    expect(ofStyle("careful").length / 6000).toBeCloseTo(0.45, 1);
    expect(ofStyle("terse").length / 6000).toBeCloseTo(0.25, 1);
    expect(ofStyle("careless").length / 6000).toBeCloseTo(0.3, 1);
    expect(range(200).every((i) => starterCorpus(i, 0, { careful: 0, terse: 1 }).style === "terse")).toBe(true);
  });

  it("tells the style by the answer's first word", () => {
    for (const { answer, style } of samples) {
      const opening = /^(First|Quick|Guess|####)/.exec(answer)?.[1];
      expect({ First: "careful", Quick: "careless", Guess: "careless", "####": "terse" }[opening ?? ""], answer).toBe(
        style,
      );
    }
  });

  it("is careful and terse with right answers, careless with wrong ones: one slip, carried to the end", () => {
    // The same problems, all solved carefully: the style is drawn apart from the problem.
    const right = range(1500).map((i) => starterCorpus(i, 5, { careful: 1, terse: 0 }).answer);
    let slipsInArithmetic = 0;
    for (const [i, { answer, style }] of samples.slice(0, 1500).entries()) {
      expect(isWellFormed(answer)).toBe(true);
      const truth = right[i] as string;
      if (style !== "careless") expect(goldAnswer(answer)).toBe(goldAnswer(truth));
      if (style === "careful") expect(answer).toBe(truth);
      if (style === "terse") expect(equations(answer)).toEqual([]);
      if (style !== "careless") continue;
      expect(goldAnswer(answer)).not.toBe(goldAnswer(truth));
      const [worked, trueSteps] = [equations(answer), equations(truth)];
      expect(worked.length).toBe(trueSteps.length);
      expect(Number(goldAnswer(answer))).toBe(worked.at(-1)?.result);
      // Divisions that no longer come out even are rounded down.
      const wrongResults = worked.filter((step) => step.result !== Math.floor(step.exact)).length;
      expect(wrongResults).toBeLessThanOrEqual(1);
      slipsInArithmetic += wrongResults;
      for (const step of worked) expect(Number.isInteger(step.result) && step.result > 0).toBe(true);
    }
    const careless = samples.slice(0, 1500).filter((sample) => sample.style === "careless").length;
    expect(slipsInArithmetic).toBeGreaterThan(careless / 4);
    expect(slipsInArithmetic).toBeLessThan(careless);
  });

  it("is written as JSONL, the same bytes for the same seed and others for another", () => {
    const [a, b, c] = ["a", "b", "c"].map((name) => join(folder, "deep", `${name}.jsonl`)) as [string, string, string];
    const styles = writeStarterCorpus(a, 500, 1);
    writeStarterCorpus(b, 500, 1);
    writeStarterCorpus(c, 500, 2);
    const text = readFileSync(a, "utf8");
    expect(readFileSync(b, "utf8")).toBe(text);
    expect(readFileSync(c, "utf8")).not.toBe(text);
    const lines = text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.length).toBe(500);
    expect(styles.careful + styles.terse + styles.careless).toBe(500);
    for (const line of lines) expect(Object.keys(line)).toEqual(["question", "answer"]);
  });
});
