import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, describe, expect, test, vi } from "vitest";
import { runAnalyze } from "../../src/eval/analysis-text.js";
import { analyze, changes, classOf } from "../../src/eval/error-classes.js";
import { equationsOf } from "../../src/eval/arithmetic.js";
import { UserError } from "../../src/errors.js";
import { parseGsm8k } from "../../src/tasks/gsm8k.js";
import { prediction } from "../support/evaluation.js";

describe("equations", () => {
  test.each([
    "5 + 3 = 8",
    "3 + 4 + 5 = 12",
    "2 + 3 * 4 = 14",
    "(2 + 3) × 4 = 20",
    "12 ÷ 4 = 3",
    "6x7=42",
    "$1,200 * 20% = $240",
    "20% of 50 = 10",
    "10 / 50 = 20%",
    "10 / 50 * 100 = 20%",
    "100% - 20% = 80%",
    "0.5 * 3 = 1.50",
    "10 / 3 = 3.33",
    "10 / 3 ≈ 3",
    "- 5 + 3 = 8",
    "5 - 8 = -3",
    "12 eggs − 3 eggs = 9 eggs",
    "60 miles/hour * 3 hours = 180 miles",
    "3 + 4 = 7 + 5 = 12",
    "3 + 4 = 5 + 2 = 7",
    "\\frac{10}{4} \\times 2 = 5",
    "48/2 = <<48/2=24>>24",
    "So **3 + 4 = 7**.",
    "1. 5 + 3 = 8",
    "100 / 3 = 33",
    "1 / 4 * 100% = 25",
    "$12.00 for a total of 48+12 = $60.00",
  ])("%j holds", (text) => {
    const found = equationsOf(text);
    expect(found.length).toBeGreaterThan(0);
    expect(found.filter(({ holds }) => !holds)).toEqual([]);
  });

  test.each([
    ["5*12=62", 60],
    ["3 + 4 + 5 = 13", 12],
    ["$1,200 * 20% = $24", 240],
    ["10 / 3 = 3.5", 10 / 3],
    ["8 / 2 = 3", 4],
    ["7 / 2 = 5", 3.5],
    ["2 + 3 * 4 = 20", 14],
    ["20% of 50 = 1000", 10],
  ])("%j does not hold", (text, value) => {
    const [equation] = equationsOf(text);
    expect(equation!.holds).toBe(false);
    expect(equation!.left).toBeCloseTo(value, 9);
  });

  test.each([
    "x + 5 = 12",
    "2x + 3 = 7",
    "2x-5=13",
    "10m - 7 = 93",
    "(3/4)e + 1 = 9",
    "an hour and 20 minutes = (60+20) minutes",
    "7:50 + 30 minutes = 8:20",
    "y = 4",
    "There are 3 apples",
    "1 hour + 30 minutes = 90 minutes",
    "2 dozen + 3 = 27",
    "50 cents * 4 = $2",
    "1 1/2 * 4 = 6",
    "#### 12",
    "= = 3 + = 4",
  ])("%j cannot be judged", (text) => expect(equationsOf(text)).toEqual([]));

  test("a chain is judged link by link, and operations are listed in order", () => {
    expect(
      equationsOf("2 * 3 = 6 + 1 = 8\n9 / 3 - 1 = 2").map(({ text, operations, holds }) => [text, operations, holds]),
    ).toEqual([
      ["2 * 3 = 6 + 1", ["×", "+"], true],
      ["6 + 1 = 8", ["+"], false],
      ["9 / 3 - 1 = 2", ["÷", "−"], true],
    ]);
  });

  test("every sum and product of whole numbers is judged as JavaScript does", () => {
    const number = fc.integer({ min: 0, max: 5000 });
    fc.assert(
      fc.property(
        fc.array(number, { minLength: 2, maxLength: 5 }),
        fc.constantFrom("+", "-", "*"),
        number,
        (terms, op, claimed) => {
          const value = terms.slice(1).reduce((a, b) => (op === "+" ? a + b : op === "-" ? a - b : a * b), terms[0]!);
          const written = terms.map((term) => term.toLocaleString("en-US")).join(` ${op} `);
          expect(equationsOf(`${written} = ${value}`)[0]?.holds).toBe(true);
          expect(equationsOf(`${written} = ${claimed}`)[0]?.holds).toBe(claimed === value);
        },
      ),
    );
  });

  test("no text breaks it", () => {
    const piece = fc.constantFrom(
      "1",
      "2.5",
      "+",
      "-",
      "x",
      "/",
      "=",
      "(",
      ")",
      "%",
      "$",
      " of ",
      " cups ",
      "\n",
      "≈",
      ",",
    );
    fc.assert(fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => void equationsOf(pieces.join(""))));
  });
});

const published = fileURLToPath(new URL("../../../shared/gsm8k", import.meta.url));
const lacking = existsSync(published) ? "" : ` (skipped: no GSM8K at ${published})`;
test.skipIf(lacking !== "")(`of the equations in GSM8K's own solutions, 57 of 26,507 do not hold${lacking}`, () => {
  const equations = ["train", "test"].flatMap((name) =>
    parseGsm8k(readFileSync(join(published, `${name}.jsonl`), "utf8"), name).flatMap(({ answer }) =>
      equationsOf(answer),
    ),
  );
  expect(equations.length).toBe(26_507);
  // slips of the data such as 400 / 80 = 180, and a few ways of writing that are misread, such as
  // 500 / 2/5
  expect(equations.filter(({ holds }) => !holds).length).toBe(57);
});

const right = prediction({ text: "3 + 4 = 7\n#### 7" });
const slip = prediction({ text: "3 + 4 = 8\n#### 8" });
const setup = prediction({ text: "3 * 4 = 12\n#### 12" });

describe("classes", () => {
  test.each([
    ["correct", right],
    ["arithmetic_slip", slip],
    ["wrong_setup", setup],
    ["no_equation", prediction({ text: "#### 9" })],
    ["format_only", prediction({ text: "He has 7 apples" })],
    ["unparsed", prediction({ text: "He has many apples" })],
    ["truncated", prediction({ text: "3 + 4 =", finish_reason: "length" })],
  ])("%s", (expected, one) => expect(classOf(one)).toBe(expected));

  test("groups: by steps and length every completion once, by operation once for each", () => {
    const two = prediction({
      index: 1,
      answer: "3 + 4 = 7\n7 * 2 = 14\n#### 14",
      text: "3 + 4 = 7\n#### 14",
      tokens: 20,
    });
    const [result] = analyze([{ ...slip, tokens: 10 }, two]);
    expect(result!.by_steps.map(({ group, n }) => [group, n])).toEqual([
      ["1 step", 1],
      ["2 steps", 1],
    ]);
    expect(result!.by_operation.map(({ group, n }) => [group, n])).toEqual([
      ["+", 2],
      ["×", 1],
    ]);
    expect(result!.by_length.map(({ group, n }) => [group, n])).toEqual([
      ["10–10 tokens", 1],
      ["20–20 tokens", 1],
    ]);
    expect(result!.slips).toEqual([{ id: slip.id, equation: "3 + 4 = 8", value: 7 }]);
    for (const rows of [result!.by_length, result!.by_steps])
      expect(rows.reduce((sum, { n }) => sum + n, 0)).toBe(result!.all.n);
  });
});

describe("what changed", () => {
  const at = (index: number, one: typeof right) => ({ ...one, index, question: `Question ${index}?` });
  const before = [at(0, right), at(1, slip), at(2, right), at(3, setup)];
  const after = [at(0, right), at(1, right), at(2, slip), at(3, slip)];

  test("is counted by question, whatever the order of lines", () => {
    const [result] = changes(before, after.toReversed(), ["a", "b"]);
    expect(result).toMatchObject({ n: 4, right_right: 1, wrong_right: 1, right_wrong: 1, wrong_wrong: 1 });
    expect(result!.classes).toContainEqual({ before: "wrong_setup", after: "arithmetic_slip", n: 1 });
  });

  test.each([
    ["fewer questions", after.slice(1), /4 and 3 questions/],
    [
      "another question",
      after.map((one) => (one.index === 2 ? { ...one, question: "Other?" } : one)),
      /another question at number 2 \("Question 2\?"\)/,
    ],
    ["more samples", [...after, { ...after[0]!, sample: 1 }], /4 and 5 completions/],
    [
      "another mode",
      after.map((one) => ({ ...one, mode: "sampled" as const })),
      /expected a mode in common, found greedy and sampled/,
    ],
  ])("%s: refused", (_what, other, message) => {
    expect(() => changes(before, other, ["a", "b"])).toThrow(message);
    expect(() => changes(before, other, ["a", "b"])).toThrow(UserError);
  });
});

describe("the command", () => {
  const dir = mkdtempSync(join(tmpdir(), "analyze-"));
  afterAll(() => rmSync(dir, { recursive: true }));
  const write = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text);
    return join(dir, name);
  };

  test("prints tables and writes the same figures as JSON", () => {
    const log = vi.spyOn(console, "log").mockImplementation(() => {});
    const a = write("a.jsonl", `${JSON.stringify(slip)}\n`);
    const b = write("b.jsonl", `${JSON.stringify(right)}\n`);
    runAnalyze(a, b, { json: join(dir, "out/analysis.json") });
    const text = String(log.mock.calls[0]![0]);
    log.mockRestore();
    expect(text).toContain("3 + 4 = 8 (is 7)");
    expect(text).toContain("1  arithmetic_slip → correct");
    const json = JSON.parse(readFileSync(join(dir, "out/analysis.json"), "utf8")) as { changes: unknown[] };
    expect(json.changes).toEqual([expect.objectContaining({ n: 1, wrong_right: 1 })]);
  });

  test("a damaged or empty file is refused with its place", () => {
    expect(() => runAnalyze(write("empty.jsonl", ""), undefined, {})).toThrow(
      /empty.jsonl: expected predictions of eval, found an empty file/,
    );
    expect(() => runAnalyze(write("other.jsonl", "{}\n"), undefined, {})).toThrow(
      /other.jsonl:1: expected a prediction of eval/,
    );
    expect(() => runAnalyze(join(dir, "none"), undefined, {})).toThrow(UserError);
  });
});
