import { existsSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { extractAnswer, goldAnswer, isWellFormed, outcomeOf, sameNumber } from "../../src/tasks/extract.js";

const asNumber = (value: string | undefined): number | undefined => (value === undefined ? undefined : Number(value));
const valueOf = (text: string): number | undefined => asNumber(extractAnswer(text)?.value);

describe("the extracted answer", () => {
  it.each([
    ["#### 53", 53],
    ["5*12=60\n60-7=53\n#### 53\n", 53],
    ["####53", 53],
    ["#### $18", 18],
    ["#### \\$18", 18],
    ["#### **18**", 18],
    ["#### 18.", 18],
    ["#### 18.00", 18],
    ["#### 1,234,567", 1234567],
    ["#### -3", -3],
    ["#### −3", -3],
    ["#### -$3.50", -3.5],
    ["#### $-3.50", -3.5],
    ["#### .5", 0.5],
    ["#### 20%", 20],
    ["#### 18 apples", 18],
    ["#### 18 dollars per day.", 18],
    ["#### 12\nno, wait\n#### 18", 18],
    ["so \\boxed{18}", 18],
    ["so $\\boxed{\\$1,800}$.", 1800],
    ["so \\boxed{18\\text{ apples}} then", 18],
    ["\\boxed{3} but #### 4", 4],
    ["\\boxed{3} and ####", 3],
    ["#### 70 000", 70000],
    ["#### 1 234 567.5 m", 1234567.5],
    ["#### 70\u202f000", 70000],
    ["\\boxed{70{,}000}", 70000],
    ["\\boxed{70,\\!000}", 70000],
    ["\\boxed{70\\,000}", 70000],
    ["\\boxed{\\text{18}}", 18],
    ["\\boxed{\\mathbf{18}\\text{ kg}}", 18],
    ["#### 18 m^2", 18],
    ["#### 18 cm²", 18],
    ["#### 18\\text{ m}^{3}", 18],
    ["#### 90^\\circ", 90],
    ["#### –3", -3],
    ["#### –$3.50", -3.5],
    ["#### 20\\%", 20],
    ["#### 3 millionaires", 3],
    ["#### 3 months", 3],
    ["#### 18 kg", 18],
    ["#### 18th", 18],
    ["#### 3 times", 3],
    ["#### 18 third graders", 18],
    ["#### $18/hour", 18],
  ])("of %j is %d", (text, expected) => {
    expect(valueOf(text)).toBe(expected);
  });

  it.each([
    "",
    "the answer is 53",
    "####",
    "#### apples",
    "####\n53",
    "#### 12/5",
    "#### 3*4=12",
    "#### 1,2",
    "#### 1,0000",
    "#### 10:30",
    "#### 18 or 19",
    "\\boxed{18",
    "\\boxed{\\frac{1}{2}}",
    "#### 3 million",
    "#### $2.5 Billion",
    "#### 3-million dollars",
    "\\boxed{3\\text{ million}}",
    "#### 5 hundred",
    "#### 5 Thousands",
    "#### 3 MILLION",
    "#### 2**3",
    "#### 2 Millionen",
    "#### 3 dozen eggs",
    "#### 3k",
    "#### $3K",
    "#### 3M",
    "#### 3bn",
    "#### 3万",
    "#### 3\\pi",
    "#### 3π",
    "#### 3 pi",
    "\\boxed{3\\sqrt{x}}",
    "#### 3x",
    "#### 3 x^2",
    "#### 3^n",
    "#### 3²",
    "#### 3½",
    "#### 3 and a half",
    "#### 3 hours and a half",
    "#### 2 thirds",
    "#### 7 tenths",
    "#### 3!",
    "#### 3 !",
    "#### 18x",
    "#### 18+",
    "\\boxed{18+}",
    "#### 3‰",
    "#### 70 0000",
    "#### 1,000 000",
  ])("of %j does not exist", (text) => {
    expect(valueOf(text)).toBeUndefined();
  });

  it("is any integer, written with commas or without", () => {
    fc.assert(
      fc.property(fc.integer({ min: -1e9, max: 1e9 }), fc.string(), (n, before) => {
        expect(valueOf(`${before.replaceAll("#", "")}\n#### ${n}`)).toBe(n);
        expect(valueOf(`#### ${n.toLocaleString("en-US")}`)).toBe(n);
      }),
    );
  });
});

describe("numbers", () => {
  it("are equal as numbers, not as texts, and only then", () => {
    expect(sameNumber(goldAnswer("18")!, goldAnswer("018.00")!)).toBe(true);
    expect(sameNumber(goldAnswer("-0.0")!, goldAnswer("0")!)).toBe(true);
    expect(sameNumber("0.30000000000000004", "0.3")).toBe(true);
    expect(sameNumber("2.9999999999", "3")).toBe(true);
    expect(sameNumber("-2.9999999999", "-3")).toBe(true);
    expect(sameNumber("1000000", "1000001")).toBe(false);
    expect(sameNumber("0", "0.001")).toBe(false);
    expect(sameNumber("-0.5", "0.5")).toBe(false);
    expect(sameNumber("10000000000.5", "10000000000")).toBe(false);
  });

  it("that are integers are compared exactly at any size", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(10n ** 40n), max: 10n ** 40n }), fc.integer({ min: 1, max: 9 }), (n, d) => {
        const outcome = (found: bigint, text: string) => outcomeOf(`#### ${found}\n`, "stop", `#### ${text}`);
        expect(outcome(n, n.toLocaleString("en-US"))).toBe("correct");
        expect(outcome(n, `${n}.0`)).toBe("correct");
        expect(outcome(n + BigInt(d), `${n}`)).toBe("wrong");
        expect(outcome(n + BigInt(d), `${n}.0`)).toBe("wrong");
      }),
    );
    expect(outcomeOf("#### 10000000005", "stop", "#### 10000000000")).toBe("wrong");
  });

  it("of a data set may stand alone", () => {
    expect(goldAnswer("18")).toBe("18");
    expect(goldAnswer("3*6=18\n#### 1,018")).toBe("1018");
    expect(goldAnswer("eighteen")).toBeUndefined();
    expect(goldAnswer("2.5 million")).toBeUndefined();
  });
});

describe("the outcome", () => {
  it.each([
    ["#### 53", "stop", "correct"],
    ["#### 53.0", "stop", "correct"],
    ["#### 54", "stop", "wrong"],
    ["fifty-three", "stop", "unparsed"],
    ["", "stop", "unparsed"],
    ["5*12=6", "length", "truncated"],
    // The next token could have been another digit.
    ["#### 53", "length", "truncated"],
    ["#### 53\nand then", "length", "correct"],
    ["#### 54 dollars", "length", "wrong"],
  ] as const)("of %j (%s) is %s", (text, finishReason, expected) => {
    expect(outcomeOf(text, finishReason, "5*12=60\n60-7=53\n#### 53")).toBe(expected);
  });
});

describe("a well-formed text", () => {
  it.each([
    ["5*12=60\n#### 60", true],
    ["#### 1,234", true],
    ["#### 60\n", true],
    ["#### 60 apples", false],
    ["####60", false],
    ["#### 60\nthe end", false],
    ["#### 6\n#### 60", false],
    ["so #### 60", false],
    ["#### 12,34", false],
    ["60", false],
  ])("%j: %s", (text, expected) => {
    expect(isWellFormed(text)).toBe(expected);
  });
});

const gsm8k = new URL("../../../shared/gsm8k/", import.meta.url);
describe.skipIf(!existsSync(gsm8k))("GSM8K (skipped where its files are absent)", () => {
  it("has a readable gold answer in every line", () => {
    for (const [file, size] of [
      ["train.jsonl", 7473],
      ["test.jsonl", 1319],
    ] as const) {
      const lines = readFileSync(new URL(file, gsm8k), "utf8").trim().split("\n");
      expect(lines.length).toBe(size);
      for (const line of lines) {
        const { answer } = JSON.parse(line) as { answer: string };
        // The files' own convention: after the mark, digits with commas.
        expect(asNumber(goldAnswer(answer))).toBe(Number((answer.split("#### ")[1] ?? "").replaceAll(",", "")));
      }
    }
  });
});
