import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { cli } from "../../src/cli.js";
import { type SeedPairs, compareCheckpoints, compareSeeds, verdict } from "../../src/eval/verdict.js";
import type { EvalResult } from "../../src/eval/folder/read-results.js";
import { sha256OfList } from "../../src/eval/folder/settings.js";
import {
  detectableOverSeeds,
  detectablePaired,
  mcnemarMidP,
  tTest,
  wilsonInterval,
} from "../../src/math/statistics.js";

let folder = "";
let stdout = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "compare-"));
  stdout = "";
  vi.spyOn(console, "log").mockImplementation((text) => void (stdout += `${String(text)}\n`));
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

/** [n] 1 in [from, to), else 0. */
const rightFrom = (from: number, to: number, n = 100): (0 | 1)[] =>
  Array.from({ length: n }, (_, i) => (i >= from && i < to ? 1 : 0));

let weights = 0;
const result = (changes: Partial<EvalResult> = {}): Omit<EvalResult, "file"> => ({
  version: 1,
  model: "runs/x/checkpoints/step-000100",
  data: "starter",
  n: 100,
  prompt: "default",
  questions_sha256: sha256OfList(["q"]),
  prompt_sha256: sha256OfList([null, ""]),
  temperature: 1,
  max_new_tokens: 256,
  samples: 1,
  device: "cpu",
  dtype: "float32",
  wall_seconds: 3,
  seed: 42,
  train_seed: null,
  weights_sha256: `weights-${weights++}`,
  sampled: { correct: rightFrom(0, 40) },
  greedy: { correct: rightFrom(0, 60) },
  ...changes,
});
const inMemory = (changes: Partial<EvalResult> = {}): EvalResult => ({ file: "x.json", ...result(changes) });
const write = (name: string, content: object | string = result()): string => {
  const file = join(folder, name);
  writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
  return file;
};
const compare = async (...args: string[]): Promise<string> => {
  await cli(["compare", ...args]);
  return stdout;
};

describe("checkpoint against checkpoint", () => {
  // sampled: A right on 0–39, B on 10–69: only A 10, only B 30; greedy: the same answers
  const a = inMemory();
  const b = inMemory({ sampled: { correct: rightFrom(10, 70) } });

  it("pairs by question", () => {
    const [sampled, greedy] = compareCheckpoints([a, b]);
    expect(sampled).toMatchObject({
      mode: "sampled",
      n: 100,
      accuracy: [0.4, 0.6],
      ci95: [wilsonInterval(40, 100), wilsonInterval(60, 100)],
      difference: 0.2,
      only_a: 10,
      only_b: 30,
      p: mcnemarMidP(10, 30),
      p_holm: 2 * mcnemarMidP(10, 30),
    });
    expect(sampled!.difference_ci95[0]).toBeGreaterThan(0.06);
    expect(sampled!.difference_ci95[1]).toBeLessThan(0.34);
    expect(sampled!.detectable).toBe(detectablePaired(100, 0.4, 0.025));
    expect(greedy).toMatchObject({
      difference: 0,
      only_a: 0,
      only_b: 0,
      p: 1,
      detectable: null,
      difference_ci95: [0, 0],
    });
  });

  it("turned round, differences change sign and p-values stay", () => {
    const [there] = compareCheckpoints([a, b]);
    const [back] = compareCheckpoints([b, a]);
    expect(back!.difference).toBe(-there!.difference);
    expect(back!.p_holm).toBe(there!.p_holm);
    expect([back!.only_a, back!.only_b]).toEqual([there!.only_b, there!.only_a]);
  });

  it("three files are three pairs, corrected for six tests", () => {
    const comparisons = compareCheckpoints([a, b, inMemory()]);
    expect(comparisons.map((c) => `${c.a}${c.b} ${c.mode}`)).toEqual(
      "01 sampled,01 greedy,02 sampled,02 greedy,12 sampled,12 greedy".split(","),
    );
    expect(comparisons[0]!.p_holm).toBeCloseTo(6 * comparisons[0]!.p, 12);
  });

  it("the verdict names the better one, or says that nothing was shown", () => {
    const [sampled, greedy] = compareCheckpoints([a, b]);
    expect(verdict(sampled!, "grpo", "ppo")).toMatch(
      /^ppo is better than grpo by 20\.0 points \(95 % interval \d+\.\d to \d+\.\d\)\.$/,
    );
    expect(verdict(compareCheckpoints([b, a])[0]!, "ppo", "grpo")).toMatch(/^ppo is better than grpo/);
    expect(verdict(greedy!, "grpo", "ppo")).toMatch(
      /^no difference shown \(equal accuracy, corrected p = 1\.0; too few questions differ\)\.$/,
    );
  });
});

describe("algorithm against algorithm", () => {
  /** Two modes of 1000 questions: sampled as given in %, greedy all alike. */
  const family = (a: number[], b: number[]): SeedPairs[] => [
    { mode: "sampled", n: 1000, a: a.map((x) => x / 100), b: b.map((x) => x / 100) },
    { mode: "greedy", n: 1000, a: a.map(() => 0.6), b: b.map(() => 0.6) },
  ];

  it("is Student's t over differences paired by seed", () => {
    const [sampled, greedy] = compareSeeds(family([40, 50, 45], [45, 58, 49]));
    const expected = tTest([0.05, 0.08, 0.04]);
    expect(sampled!.difference).toBeCloseTo(expected.mean, 12);
    expect(sampled!.difference_ci95[0]).toBeCloseTo(expected.interval[0], 12);
    expect(sampled!.p).toBeCloseTo(expected.p, 12);
    expect(sampled!.p_holm).toBeCloseTo(2 * expected.p, 12);
    expect(sampled!.detectable).toBeCloseTo(detectableOverSeeds(expected.sd, 3, 0.025), 9);
    expect(sampled!.detectable).toBeGreaterThan(detectableOverSeeds(expected.sd, 3));
    expect(greedy).toMatchObject({ differences: [0, 0, 0], p: 1 });
  });

  it("seeds that disagree show nothing, however many questions do", () => {
    const [sampled] = compareSeeds(family([10, 90, 50], [60, 60, 60]));
    expect(sampled!.p_holm).toBeGreaterThan(0.05);
    expect(verdict(sampled!, "A", "B")).toMatch(
      /^no difference shown \(B ahead by 10\.0 points, corrected p = [\d.]+; seeds scatter too much to show any\)\.$/,
    );
    const [closer] = compareSeeds(family([59, 61, 60], [60, 60, 63]));
    expect(verdict(closer!, "A", "B")).toMatch(
      /^no difference shown \(B ahead by 1\.0 points, corrected p = [\d.]+; 4 in 5 times, 9\.\d would be\)\.$/,
    );
  });
});

describe("cli compare", () => {
  it("prints both, the intervals, the test and a verdict; --json has the same figures", async () => {
    const a = write("before.json");
    const b = write("after.json", result({ sampled: { correct: rightFrom(10, 70) } }));
    const json = join(folder, "out/compare.json");
    const text = await compare(a, b, "--json", json);
    for (const part of [
      /100 questions of starter/,
      /before 40\.0 % \[30\.9, 49\.8\] {3}after 60\.0 % \[50\.2, 69\.1\]/,
      /\+20\.0 points \[/,
      /only one is right {4}before 10, after 30 {3}mid-p McNemar p = 0\.00\d+/,
      /sampled: after is better than before by 20\.0 points/,
      /greedy: no difference shown/,
      /not of the algorithms/,
    ])
      expect(text).toMatch(part);
    const written = JSON.parse(readFileSync(json, "utf8")) as { comparisons: object[]; verdicts: string[] };
    expect(written.comparisons[0]).toMatchObject({ only_a: 10, only_b: 30, p: mcnemarMidP(10, 30) });
    expect(text).toContain(written.verdicts[0]);
  });

  it("--a and --b pair by seed", async () => {
    const files = (name: string, ...accuracies: number[]): string[] =>
      accuracies.map((k, i) =>
        write(`${name}${i}.json`, result({ train_seed: i, sampled: { correct: rightFrom(0, k) } })),
      );
    const json = join(folder, "seeds.json");
    const args = ["--a", ...files("grpo", 40, 41, 42), "--b", ...files("ppo", 60, 62, 61), "--json", json];
    const text = await compare(...args);
    expect(text).toMatch(/sampled, 3 seeds\n.*A 41\.0 % {3}B 61\.0 %\n.*\+20\.0 {2}\+21\.0 {2}\+19\.0 points/);
    expect(text).toMatch(/t, 2 degrees of freedom/);
    expect(text).toMatch(/sampled: B is better than A by 20\.0 points \(95 % interval 17\.5 to 22\.5\)/);
    expect(JSON.parse(readFileSync(json, "utf8"))).toMatchObject({ kind: "seeds", comparisons: [{ seeds: 3 }, {}] });
  });

  it.each<[string, () => string[], RegExp]>([
    ["no files", () => [], /expected at least two result files/],
    ["one file", () => [write("a")], /expected at least two/],
    ["files and sides", () => [write("a"), "--a", write("b")], /found both/],
    ["a missing file", () => [write("a"), join(folder, "none")], /none: .*found nothing there/],
    ["an empty file", () => [write("a"), write("b", " \n")], /b: .*found an empty file/],
    ["no JSON", () => [write("a"), write("b", "{")], /b: .*found no JSON/],
    ["an older file", () => [write("a"), write("b", { n: 3 })], /b: [^]*questions_sha256[^]*older version/],
    ["a file without a seed", () => [write("a"), write("b", { ...result(), seed: undefined })], /seed/],
    [
      "half a vector",
      () => [write("a"), write("b", result({ n: 120 }))],
      /expected 120 answers \(n\) in sampled.correct, found 100/,
    ],
    [
      "other questions",
      () => [write("a"), write("b", result({ questions_sha256: "other" }))],
      /found different: the questions \([0-9a-f]{12} and other\)/,
    ],
    [
      "another number of questions",
      () => {
        const correct = rightFrom(0, 5, 50);
        return [write("a"), write("b", result({ n: 50, sampled: { correct }, greedy: { correct } }))];
      },
      /the number of questions \(100 and 50\)/,
    ],
    [
      "another prompt",
      () => [write("a"), write("b", result({ prompt: "verl" }))],
      /the prompt's name \(--prompt\) \(default and verl\)/,
    ],
    [
      "other modes",
      () => [write("a"), write("b", { ...result(), sampled: undefined })],
      /--modes \(sampled,greedy and greedy\)/,
    ],
    ["no mode", () => [write("a"), write("b", { ...result(), sampled: undefined, greedy: undefined })], /or both/],
    [
      "other prompts and settings, all named at once",
      () => [write("a"), write("b", result({ prompt_sha256: "p", temperature: 0.7 }))],
      /the prompts' texts .*--temperature \(1 and 0\.7\)/,
    ],
    [
      "a missing seed",
      () => [
        "--a",
        write("a1", result({ train_seed: 1 })),
        write("a2", result({ train_seed: 2 })),
        "--b",
        write("b1", result({ train_seed: 1 })),
      ],
      /found 2 files \(training seeds 1, 2\) and 1 \(1\): a seed is missing/,
    ],
    ["one side only", () => ["--a", write("a1"), write("a2")], /found 2 files .* and 0/],
    ["one seed", () => ["--a", write("a"), "--b", write("b")], /at least 2 seeds/],
    [
      "seeds out of order",
      () => {
        const [one, two] = [{ train_seed: 1 }, { train_seed: 2 }].map(result);
        return [
          "--a",
          write("a1", one),
          write("a2", two),
          "--b",
          write("b2", { ...two, weights_sha256: "2" }),
          write("b1", one),
        ];
      },
      /pair 1 is .*a1 \(training seed 1\) and .*b2 \(training seed 2\)/,
    ],
    [
      "a file twice",
      () => {
        const twice = write("a1");
        return ["--a", twice, twice, "--b", write("b1"), write("b2")];
      },
      /--a: expected every seed once.*same weights/,
    ],
    [
      "other questions across sides",
      () => ["--a", write("a1"), write("a2"), "--b", write("b1"), write("b2", result({ questions_sha256: "other" }))],
      /b2: .*the questions/,
    ],
  ])("refuses %s", async (_, args, message) => {
    await expect(compare(...args())).rejects.toThrow(message);
    expect(stdout).toBe("");
  });
});
