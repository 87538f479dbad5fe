import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeReport } from "../../../src/study/report/write-report.js";
import { UserError } from "../../../src/errors.js";
import { wilsonInterval } from "../../../src/math/statistics.js";
import { writeRun, writeStudy } from "../../support/evaluation.js";

const root = mkdtempSync(join(tmpdir(), "report-"));
afterAll(() => rmSync(root, { recursive: true }));
const evil = '<script src="https://example.org/x.js">alert(1)</script> & `````';
const made = {
  before: 0.4,
  after: { grpo: 0.8, ppo: 0.85 },
  seeds: [1, 2, 3],
  questions: 24,
  iterations: 8,
  text: evil,
};

describe("report of a study", () => {
  const dir = join(root, "study");
  let page = "";
  let json: {
    results: {
      who: string;
      mode: string;
      accuracy: number;
      accuracies: number[];
      ci95: [number, number];
      n: number;
      seeds: number[];
    }[];
    flows: Record<string, number>[];
  };
  beforeAll(() => {
    writeStudy(dir, made);
    page = readFileSync(writeReport(dir), "utf8");
    json = JSON.parse(readFileSync(join(dir, "report.json"), "utf8")) as typeof json;
  });

  test("the verdict comes first, then in what the algorithms differ", () => {
    const titles = Array.from(page.matchAll(/<h2[^>]*>([^<]*)/g), ([, title]) => title);
    expect(titles.slice(0, 2)).toEqual(["Verdict", "What the algorithms do differently"]);
    const { verdict } = JSON.parse(readFileSync(join(dir, "comparison.json"), "utf8")) as { verdict: string };
    expect(page).toContain(verdict);
  });

  test("nothing is loaded: no script, no address but the SVG name space", () => {
    expect(page).not.toMatch(/<(script|link|img|iframe|object|embed)\b/i);
    expect(page).not.toMatch(/@import|url\((?!#)/i);
    const addresses = new Set(
      page.replaceAll("&lt;script src=&quot;https://example.org/x.js&quot;", "").match(/https?:\/\/[^"' )]*/g),
    );
    expect([...addresses].filter((address) => !address.startsWith("http://www.w3.org/"))).toEqual([]);
  });

  test("no path of this machine is in it, and equal seeds are not taken for certainty", () => {
    for (const name of ["report.html", "report.md", "report.json"])
      expect(readFileSync(join(dir, name), "utf8")).not.toContain(root);
    expect(page).toContain("…/study/grpo-seed1");
    for (const { accuracy, ci95, n } of json.results) {
      const [low, high] = wilsonInterval(accuracy * n, n);
      expect(ci95[0]).toBeLessThanOrEqual(low);
      expect(ci95[1]).toBeGreaterThanOrEqual(Math.min(1, high) - 1e-12);
    }
  });

  test("completions are text: a script in one is shown, not run", () => {
    expect(page).toContain(
      "&lt;script src=&quot;https://example.org/x.js&quot;&gt;alert(1)&lt;/script&gt; &amp; `````",
    );
    const markdown = readFileSync(join(dir, "report.md"), "utf8");
    expect(markdown).toContain(`\`\`\`\`\`\`text\n${evil}\n\`\`\`\`\`\``);
  });

  test("a band has every iteration, also those at which the seeds agree", () => {
    // all seeds start from one model: the first share that was cut off is the same
    const chart = readFileSync(join(dir, "report-figures/cut-off.svg"), "utf8");
    const bands = Array.from(chart.matchAll(/<polygon points="([^"]+)"/g), ([, points]) => points!.split(" "));
    const places = bands.map((numbers) => new Set(numbers.filter((_, i) => i % 2 === 0)).size);
    expect(places).toEqual([made.iterations, made.iterations]);
  });

  test("the accuracies are said to be of the first samples, the verdict of all", () => {
    expect(page).toContain("of the first sample of each question, where the verdict counts all samples");
  });

  test("every chart has a description and a file that the Markdown shows", () => {
    const labels = Array.from(page.matchAll(/<svg role="img" aria-label="([^"]+)"/g), ([, label]) => label!);
    const files = readdirSync(join(dir, "report-figures"));
    expect(labels.length).toBe(page.split("<svg").length - 1);
    expect(labels.length).toBe(files.length);
    const markdown = readFileSync(join(dir, "report.md"), "utf8");
    for (const file of files) expect(markdown).toContain(`](report-figures/${file})`);
    expect(labels.find((label) => label.startsWith("Held-out accuracy, sampled, against iterations"))).toMatch(
      /GRPO from 40\.0 % at iteration 0 to .* PPO/,
    );
  });

  test("figures are those of the evaluations: mean over seeds, changes by question", () => {
    const grpo = json.results.find((one) => one.who === "grpo" && one.mode === "sampled")!;
    const right = made.seeds.map((seed) => {
      const lines = readFileSync(join(dir, `grpo-seed${seed}/eval/predictions.jsonl`), "utf8")
        .trimEnd()
        .split("\n");
      const outcomes = lines
        .map((line) => JSON.parse(line) as { mode: string; outcome: string })
        .filter(({ mode }) => mode === "sampled");
      return outcomes.filter(({ outcome }) => outcome === "correct").length / outcomes.length;
    });
    expect(grpo.seeds).toEqual([1, 2, 3]);
    expect(grpo.accuracies).toEqual(right);
    expect(grpo.accuracy).toBeCloseTo(right.reduce((a, b) => a + b) / 3, 12);
    const baseline = json.results.find((one) => one.who === "baseline" && one.mode === "sampled")!;
    for (const flow of json.flows.filter(
      (one) => one.run === ("grpo-seed1" as unknown) && one.mode === ("sampled" as unknown),
    )) {
      expect(flow.right_right! + flow.wrong_right!).toBe(right[0]! * made.questions);
      expect(flow.right_right! + flow.right_wrong!).toBeCloseTo(baseline.accuracy * made.questions, 9);
    }
  });

  test("a study whose runs were taken away keeps its verdict and its differences", () => {
    const committed = new URL("../../../experiments/starter-study", import.meta.url).pathname;
    const { verdict } = JSON.parse(readFileSync(join(committed, "comparison.json"), "utf8")) as { verdict: string };
    const out = join(root, "committed");
    const page = readFileSync(writeReport(committed, { out }), "utf8");
    expect(page).toContain(verdict.slice(0, 40));
    for (const run of ["grpo-seed1", "ppo-seed3"]) expect(page).toContain(`<li>${run}: not begun</li>`);
    expect(readdirSync(join(out, "report-figures")).length).toBeGreaterThan(0);
  });

  test("a study that is not finished is reported with what it lacks", () => {
    unlinkSync(join(dir, "comparison.json"));
    rmSync(join(dir, "ppo-seed3"), { recursive: true });
    rmSync(join(dir, "grpo-seed2/eval"), { recursive: true });
    unlinkSync(join(dir, "grpo-seed3/summary.json"));
    const page = readFileSync(writeReport(dir, { out: join(root, "elsewhere") }), "utf8");
    for (const line of [
      "comparison.json: no verdict yet",
      "ppo-seed3: not begun",
      "grpo-seed2: not evaluated",
      "grpo-seed3: training has not ended",
    ])
      expect(page).toContain(line);
    expect(existsSync(join(root, "elsewhere/report.md"))).toBe(true);
  });
});

describe("report of one run", () => {
  test("says what the run gained, and that one run is no verdict on an algorithm", () => {
    const dir = join(root, "run");
    mkdirSync(dir);
    writeRun(dir, "ppo", 7, made, 0.8);
    const page = readFileSync(writeReport(dir), "utf8");
    expect(page).toContain(
      "sampled: 40.0 % [36.0, 44.0] → 78.0 % [74.0, 82.0] after 8 iterations, +38.0 points on 512 held-out questions.",
    );
    expect(page).toContain("This is one run");
    // the torn last line of a run that is being written
    writeFileSync(
      join(dir, "metrics.jsonl"),
      `${readFileSync(join(dir, "metrics.jsonl"), "utf8")}{"iteration": 9, "rew`,
    );
    writeReport(dir);
  });

  test("a directory of neither kind, or with a damaged file, is refused", () => {
    expect(() => writeReport(root)).toThrow(UserError);
    const dir = join(root, "damaged");
    mkdirSync(dir);
    writeRun(dir, "grpo", 1, made, 0.8);
    writeFileSync(join(dir, "metrics.jsonl"), '{"iteration": "one"}\n');
    expect(() => writeReport(dir)).toThrow(/metrics.jsonl:1: expected another content/);
  });
});
