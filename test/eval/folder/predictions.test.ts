import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { type Prediction, judge, readPredictions } from "../../../src/eval/folder/predictions.js";
import { summarize } from "../../../src/eval/summary.js";

const folder = mkdtempSync(join(tmpdir(), "predictions-"));
afterAll(() => rmSync(folder, { recursive: true }));

const predicted = (text: string, changes: Partial<Prediction> = {}): Prediction =>
  judge({
    mode: "sampled",
    index: 0,
    id: "t/1",
    sample: 0,
    question: "9+9?",
    answer: "9+9=18\n#### 18",
    text,
    finish_reason: "stop",
    tokens: 10,
    ...changes,
  });

describe("predictions.jsonl", () => {
  const file = join(folder, "predictions.jsonl");

  it("gives back what was written, a torn last line left out", () => {
    const written = [predicted("#### 18"), predicted("no answer")];
    const text = written.map((p) => `${JSON.stringify(p)}\n`).join("");
    writeFileSync(file, `${text}{"mode":"sam`);
    expect(readPredictions(file)).toEqual(written);
  });

  it.each([
    ["an empty file", "", /found an empty file/],
    ["another kind of line", '{"a": 1}\n', /predictions\.jsonl:1: expected a prediction of eval/],
    ["a broken line inside", `{"mode":\n${JSON.stringify(predicted("x"))}\n`, /predictions\.jsonl:1: expected/],
  ])("refuses %s", (_, text, message) => {
    writeFileSync(file, text);
    expect(() => readPredictions(file)).toThrow(message);
  });

  it("refuses a missing file", () => {
    expect(() => readPredictions(join(folder, "none"))).toThrow(/found nothing/);
  });
});

describe("the summary of two questions, four samples each", () => {
  const [right, wrong] = ["#### 18", "#### 17"];
  const texts = [wrong, right, right, "none", right, wrong, wrong, wrong];
  const predictions = texts.map((text, i) => predicted(text, { index: Math.floor(i / 4), sample: i % 4, tokens: i }));
  const metrics = summarize(predictions, 4, 2);

  it("counts the first samples for accuracy, all for the rest", () => {
    expect(metrics).toMatchObject({
      accuracy: 0.5,
      n: 2,
      correct: [0, 1],
      format_rate: 7 / 8,
      truncation_rate: 0,
      mean_length: 3.5,
      tokens_per_second: 14,
      outcomes: { correct: 3, wrong: 4, unparsed: 1, truncated: 0 },
      extractors: { ours: { accuracy: 0.5 }, lm_eval_strict: { accuracy: 0.5 } },
    });
  });

  it("pass@k and maj@k by hand", () => {
    // 2 and 1 of 4 right: pass@1 = (1/2 + 1/4)/2; pass@2 = ((1 − 1/6) + (1 − 3/6))/2
    expect(metrics.pass_at_k!["1"]).toBeCloseTo(0.375, 12);
    expect(metrics.pass_at_k!["2"]).toBeCloseTo(2 / 3, 12);
    expect(metrics.pass_at_k!["4"]).toBe(1);
    // first two: a tie goes to the first seen, wrong and right; of four: right twice, wrong three
    // times
    expect(metrics.maj_at_k).toEqual({ "1": 0.5, "2": 0.5, "4": 0.5 });
  });

  it("has no vote for a truncated completion, whose digits may be missing", () => {
    const cut = summarize([predicted("#### 1", { finish_reason: "length" }), predicted(right, { sample: 1 })], 2, 1);
    expect(cut.outcomes).toMatchObject({ truncated: 1, correct: 1 });
    expect(cut.maj_at_k).toEqual({ "1": 0, "2": 1 });
    expect(summarize([predicted(right)], 1, 1)).not.toHaveProperty("maj_at_k");
  });

  it("extractors agree where they see the same, or all nothing", () => {
    const { names, same_answer } = summarize([predicted("it is 18"), predicted("none")], 1, 1).agreement;
    const at = (a: string, b: string): number => same_answer[names.indexOf(a)]![names.indexOf(b)]!;
    expect(at("ours", "ours")).toBe(1);
    expect(at("ours", "lm_eval_strict")).toBe(1);
    expect(at("ours", "lm_eval_flexible")).toBe(0.5);
    expect(at("lm_eval_flexible", "boxed")).toBe(1);
  });
});
