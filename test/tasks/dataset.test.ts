import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { PromptOrder, loadDataset } from "../../src/tasks/dataset.js";
import { starterProblem } from "../../src/tasks/starter.js";

const folder = mkdtempSync(join(tmpdir(), "finellama-dataset-"));
afterAll(() => rmSync(folder, { recursive: true }));
const jsonl = (text: string): string => {
  const file = join(folder, "data.jsonl");
  writeFileSync(file, text);
  return file;
};

describe("a data set", () => {
  it("of the starter has a fixed validation part and as much training data as anyone needs", () => {
    const [train, validation] = [loadDataset("starter", "train"), loadDataset("starter", "validation")];
    expect(validation.size).toBe(2048);
    expect(train.size).toBe(2 ** 31);
    expect(train.problem(train.size - 1)).toEqual(starterProblem("train", 2 ** 31 - 1));
    expect(validation.problem(5)).toEqual(starterProblem("validation", 5));
    expect(loadDataset("starter-test", "validation").problem(5)).toEqual(starterProblem("test", 5));
  });

  it("of a file has its lines in order, blank ones left out, ids by line", () => {
    const file = jsonl('{"question": "1+1?", "answer": "#### 2"}\n\n{"question": "Q", "answer": "7", "extra": 1}\r\n');
    const data = loadDataset(file, "train");
    expect(data.size).toBe(2);
    expect(data.name).toBe("data.jsonl");
    expect(data.problem(0)).toEqual({ id: "data.jsonl/1", question: "1+1?", answer: "#### 2" });
    expect(data.problem(1)).toEqual({ id: "data.jsonl/3", question: "Q", answer: "7" });
  });

  const good = '{"question": "Q", "answer": "#### 1"}\n';
  it.each([
    ["empty", "", /data\.jsonl: expected at least one line/],
    ["blank", "\n \n", /data\.jsonl: expected at least one line/],
    ["not JSON in line 2", `${good}oops\n`, /data\.jsonl:2: expected one JSON object per line/],
    ["not an object", `${good}[1]\n`, /data\.jsonl:2: expected the fields "question" and "answer"/],
    ["without an answer", `${good}${good}{"question": "Q"}\n`, /data\.jsonl:3: expected the fields .*\n.*\n.*answer/],
    ["without words in the question", '{"question": " ", "answer": "#### 1"}\n', /data\.jsonl:1: expected the fields/],
    [
      "without a number to check against",
      '{"question": "Q", "answer": "many"}\n',
      /data\.jsonl:1: expected an answer .* found "many"/,
    ],
    [
      "with a number that a word changes",
      `${good}{"question": "Q", "answer": "#### 2.5 million"}\n`,
      /data\.jsonl:2: expected an answer .*2\.5 million.* 3000000/,
    ],
  ])("that is %s is refused with its line", (_, text, message) => {
    expect(() => loadDataset(jsonl(text), "train")).toThrow(message);
  });

  it("that does not exist is refused by name", () => {
    expect(() => loadDataset(join(folder, "none.jsonl"), "train")).toThrow(
      /none\.jsonl: expected "starter" or a JSONL file/,
    );
    expect(() => loadDataset(folder, "train")).toThrow(/expected "starter" or a JSONL file/);
  });
});

describe("the prompt order", () => {
  it("asks every problem once an epoch", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 700 }), fc.nat(), fc.integer({ min: 0, max: 5 }), (size, seed, epoch) => {
        const order = new PromptOrder(size, seed);
        const seen = new Set(Array.from({ length: size }, (_, i) => order.index(epoch * size + i)));
        expect(seen.size).toBe(size);
        expect(Math.min(...seen)).toBe(0);
        expect(Math.max(...seen)).toBe(size - 1);
      }),
    );
  });

  it("has another order for another epoch and another seed, and the same for the same", () => {
    const orderOf = (seed: number, epoch: number): number[] => {
      const order = new PromptOrder(100, seed);
      return Array.from({ length: 100 }, (_, i) => order.index(epoch * 100 + i));
    };
    expect(orderOf(1, 0)).toEqual(orderOf(1, 0));
    expect(orderOf(1, 1)).not.toEqual(orderOf(1, 0));
    expect(orderOf(2, 0)).not.toEqual(orderOf(1, 0));
  });

  it("spreads neighbours over the whole range, at the starter's size too", () => {
    for (const size of [7473, 2 ** 31]) {
      const order = new PromptOrder(size, 42);
      const indices = Array.from({ length: 2000 }, (_, i) => order.index(i));
      expect(new Set(indices).size).toBe(2000);
      for (const index of indices) expect(index >= 0 && index < size).toBe(true);
      // A uniform mean has a standard deviation of size / sqrt(12 · 2000) = 0.0065 size; this
      // allows 6 of them.
      const mean = indices.reduce((a, b) => a + b, 0) / 2000;
      expect(Math.abs(mean / size - 0.5)).toBeLessThan(0.04);
      const ascending = indices.filter((index, i) => i > 0 && index > (indices[i - 1] as number)).length;
      expect(ascending).toBeGreaterThan(850);
      expect(ascending).toBeLessThan(1150);
    }
  });
});
