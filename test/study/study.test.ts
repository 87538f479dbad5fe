import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { sha256OfList } from "../../src/eval/folder/settings.js";
import { TaskSource } from "../../src/learner/rollouts/task-source.js";
import { compareStudy } from "../../src/study/comparison.js";
import { type CurvePoint, accuracyAt, matchedAt, readCurve } from "../../src/study/curve.js";
import { readStudy, resolveStudy } from "../../src/study/definition.js";
import { recordStudy, trainingState } from "../../src/study/directory.js";
import { planSteps } from "../../src/study/steps.js";
import { root } from "../support/run.js";

let folder = "";
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), "study-"))));
afterEach(() => rmSync(folder, { recursive: true }));

const definition = (changes: object = {}): object => ({
  name: "small",
  config: ["configs/starter.yaml"],
  overrides: { max_steps: 20, eval_steps: 10, eval: { num_problems: 100 } },
  algorithms: { grpo: { steps_per_generation: 2 }, ppo: null },
  seeds: [1, 2, 3],
  eval: { data: "starter-test", limit: 100 },
  primary: "sampled",
  ...changes,
});
const study = (changes: object = {}) => resolveStudy(definition(changes), "small.yaml", root);

describe("the study file", () => {
  it.each([" after ####.", '"quoted" tail', "%d"])("a text of the overrides, %j, reaches every run", (text) => {
    const { configs } = study({ overrides: { data: { prompt_suffix: text }, "data.system_prompt": text } });
    for (const { data } of Object.values(configs))
      expect(data).toMatchObject({ prompt_suffix: text, system_prompt: text });
  });

  it("a section of the overrides reaches every run key by key: `launch --actors N` is another option", () => {
    const overrides = {
      actors: { threads: 2, segment_length: 4 },
      lora: { enabled: true },
      reward: { timeout_seconds: 7 },
    };
    const planned = planSteps(folder, "small.yaml", study({ overrides })).find(({ sort }) => sort === "train grpo")!;
    expect(planned.command().args).toEqual(
      expect.arrayContaining(["--actors.threads=2", "--actors.segment_length=4", "--lora.enabled=true"]),
    );
    for (const config of Object.values(study({ overrides }).configs))
      expect(config).toMatchObject({
        actors: { threads: 2, segment_length: 4, num: 1 },
        reward: { timeout_seconds: 7 },
      });
  });

  it.each(["configs/study-starter.yaml", "configs/study-qwen2.5-3b.yaml"])("%s can be run", (file) => {
    const { definition: read, differences, configs } = readStudy(join(root, file), root);
    expect(differences).toEqual([]);
    expect(configs["grpo"]!.eval_steps).toBeGreaterThan(0);
    expect(read.eval.data).not.toBe(configs["grpo"]!.data.validation);
  });

  it.each([
    ["missing.yaml", null, /missing.yaml: expected a YAML study file, found nothing\. See configs/],
    ["torn.yaml", "name: [", /torn.yaml: expected a YAML study file, found one that cannot be read/],
    ["tag.yaml", "primary: !greedy x", /tag.yaml: expected a YAML study file.*Unresolved tag: !greedy/],
  ])("%s is refused for what it is", (name, text, message) => {
    const file = join(folder, name);
    if (text !== null) writeFileSync(file, text);
    expect(() => readStudy(file, root)).toThrow(message);
  });

  it("both algorithms ask the same prompts with the same noise, as many answers each", () => {
    const { configs } = study();
    const [grpo, ppo] = Object.values(configs).map((config) => TaskSource.open({ ...config, seed: 2 }));
    for (const [batch, slot] of [
      [0, 0],
      [3, 17],
      [19, 63],
    ] as const)
      expect(grpo!.taskAt(batch, slot, 0)).toEqual(ppo!.taskAt(batch, slot, 0));
    const request = { iteration: 10, n: 5, mode: "sampled", purpose: "eval" } as const;
    expect(grpo!.evalTasks(request)).toEqual(ppo!.evalTasks(request));
  });

  it("lists allowed differences, and the settings that one algorithm has alone", () => {
    const { differences, own } = study({
      algorithms: { grpo: { beta: 0.01, learning_rate: 1e-5 }, ppo: null },
      allow_differences: ["kl_coefficient", "learning_rate", "optimizer_steps_per_batch"],
    });
    expect(differences).toEqual([
      { key: "kl_coefficient", values: { grpo: 0.01, ppo: 0 } },
      { key: "optimizer_steps_per_batch", values: { grpo: 1, ppo: 2 } },
      { key: "learning_rate", values: { grpo: 1e-5, ppo: 5e-5 } },
    ]);
    expect(own).toContainEqual({ key: "lam", values: { ppo: 0.95 } });
    expect(own).toContainEqual({ key: "scale_rewards", values: { grpo: "group" } });
  });

  it.each<[string, object, RegExp]>([
    ["an unknown key", { seed: 1 }, /^small.yaml: unknown key "seed"; the nearest valid one is "seeds"/],
    ["an unknown section", { evl: {} }, /^small.yaml: unknown key "evl"; the nearest valid one is "eval"/],
    [
      "an unknown key of a section",
      { eval: { data: "x", sample: 2 } },
      /^small.yaml: unknown key "eval.sample"; the nearest valid one is "eval.samples"/,
    ],
    ["a number for a text", { eval: { data: 3 } }, /^small.yaml: eval.data: expected string, found 3\./],
    ["no modes", { primary: undefined }, /^small.yaml: primary: expected one of "sampled"\|"greedy", found nothing\./],
    ["an unknown training key", { overrides: { max_step: 3 } }, /max_step.*nearest valid one is "?-*max_steps/],
    ["one algorithm", { algorithms: { grpo: null } }, /at least two algorithms/],
    ["one seed", { seeds: [1] }, /at least two seeds/],
    ["a seed twice", { seeds: [1, 2, 1] }, /every seed once/],
    ["a name that is no directory", { name: "../up" }, /^small.yaml: name: letters, digits.*, found "..\/up"/],
    [
      "an algorithm that is no directory",
      { algorithms: { grpo: null, "a/b": null } },
      /algorithms.a\/b: letters, digits/,
    ],
    ["an algorithm nobody knows", { algorithms: { grpo: null, dpo: null } }, /algorithms.dpo: expected algo: grpo/],
    ["a seed among the overrides", { overrides: { seed: 3 } }, /seed is set by the study itself/],
    ["a primary mode that is not evaluated", { eval: { data: "x", modes: ["greedy"] } }, /primary is sampled/],
    [
      "a difference that is not named",
      { algorithms: { grpo: null, ppo: { num_generations: 4 } } },
      /optimizer_steps_per_batch: grpo 1, ppo 2[^]*num_generations: grpo 8, ppo 4[^]*allow_differences: \[optimizer_steps_per_batch, num_generations\]/,
    ],
    [
      "another KL coefficient",
      { algorithms: { grpo: { steps_per_generation: 2 }, ppo: { kl_coef: 0.05 } } },
      /kl_coefficient: grpo 0, ppo 0.05/,
    ],
    [
      "an allowed difference that is none",
      { allow_differences: ["temperature"] },
      /temperature, in which .* do not differ/,
    ],
  ])("refuses %s", (_, changes, message) => {
    expect(() => study(changes)).toThrow(message);
  });

  it("alternates algorithms seed by seed, each evaluated at once", () => {
    const names = planSteps(folder, "small.yaml", study({ seeds: [1, 2] })).map(({ name }) => name);
    expect(names).toEqual(
      "baseline grpo-seed1 grpo-seed1-eval ppo-seed1 ppo-seed1-eval grpo-seed2 grpo-seed2-eval ppo-seed2 ppo-seed2-eval".split(
        " ",
      ),
    );
    const prompts = study({ eval: { data: "x", prompts: ["default", "boxed"] } });
    const evals = planSteps(folder, "small.yaml", prompts).filter(({ sort }) => sort === "eval");
    expect(evals).toHaveLength(2 * 7);
    expect(evals[3]!.name).toBe("grpo-seed1-eval-boxed");
    expect(evals[3]!.command().args.slice(-2)).toEqual(["--prompt", "boxed"]);
  });

  it("evaluates where and how the actors of training compute, the baseline too", () => {
    const onGpu = {
      actors: { device: "cuda", dtype: "float16", max_rows: 32, segment_length: 64 },
      selftest: { max_logprob_gap: null, mean_logprob_gap: 0.02 },
    };
    const evals = planSteps(folder, "small.yaml", study({ overrides: onGpu })).filter(({ sort }) => sort === "eval");
    expect(evals.map(({ name }) => name).slice(0, 2)).toEqual(["baseline", "grpo-seed1-eval"]);
    for (const { args } of evals.map((step) => step.command())) {
      const value = (option: string) => args[args.indexOf(option) + 1];
      expect(["--device", "--dtype", "--max-rows", "--segment-length"].map(value)).toEqual([
        "cuda",
        "float16",
        "32",
        "64",
      ]);
    }
  });
});

describe("the learning curve", () => {
  const accuracy = (value: number) => ({ accuracy: value, ci95: [0, 1] as const, n: 100 });
  const point = (iteration: number, tokens: number, seconds: number, sampled: number): CurvePoint => ({
    iteration,
    tokens,
    wall_time: seconds,
    validation: { sampled: accuracy(sampled) },
  });
  const fast = [point(0, 0, 0, 0.4), point(10, 1000, 20, 0.6), point(20, 2000, 40, 0.7)];
  const slow = [point(0, 0, 0, 0.4), point(10, 900, 40, 0.8), point(20, 1500, 80, 0.9)];

  it("is a straight line between evaluations", () => {
    expect(accuracyAt(fast, "tokens", 0, "sampled")).toBe(0.4);
    expect(accuracyAt(fast, "tokens", 500, "sampled")).toBeCloseTo(0.5, 12); // half way from 0.4 to 0.6
    expect(accuracyAt(fast, "tokens", 1250, "sampled")).toBeCloseTo(0.625, 12); // a quarter from 0.6 to 0.7
    expect(accuracyAt(fast, "wall_time", 40, "sampled")).toBe(0.7);
    expect(accuracyAt(fast, "wall_time", 41, "sampled")).toBeNull();
    expect(accuracyAt(fast, "tokens", 500, "greedy")).toBeNull();
  });

  it("two runs are compared at the smaller of their budgets", () => {
    // tokens: 1500, where fast is half way from 0.6 to 0.7; seconds: 40, where slow is at iteration
    // 10
    const byTokens = matchedAt([fast], [slow], "tokens", "sampled")!;
    expect(byTokens).toMatchObject({ budgets: [1500], b: [0.9] });
    expect(byTokens.a[0]).toBeCloseTo(0.65, 12);
    expect(matchedAt([fast], [slow], "wall_time", "sampled")).toEqual({ budgets: [40], a: [0.7], b: [0.8] });
    expect(matchedAt([fast], [slow], "wall_time", "greedy")).toBeNull();
  });
});

/** Files of a study as its children leave them; accuracies are the right answers of 100. */
describe("a study directory", () => {
  const write = (path: string, content: object | string): void => {
    const file = join(folder, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
  };
  const share = (accuracy: number) => ({ accuracy, ci95: [0, 1], n: 100 });
  const evaluation = (trainSeed: number | null, right: number, changes: object = {}): object => {
    const correct = Array.from({ length: 100 }, (_, i) => Number(i < right));
    return {
      version: 1,
      model: "m",
      data: "starter-test",
      n: 100,
      prompt: "default",
      temperature: 1,
      samples: 1,
      questions_sha256: sha256OfList(["q"]),
      prompt_sha256: sha256OfList([null, ""]),
      max_new_tokens: 64,
      seed: 42,
      train_seed: trainSeed,
      weights_sha256: `${trainSeed} ${right}`,
      wall_seconds: 3,
      sampled: { correct },
      greedy: { correct: correct.map(() => 1) },
      ...changes,
    };
  };
  const run = (algorithm: "grpo" | "ppo", seed: number, right: number, secondsPerIteration: number): void => {
    const dir = `${algorithm}-seed${seed}`;
    const { configs } = study();
    write(`${dir}/config.json`, { ...configs[algorithm]!, seed, run_dir: join(folder, dir) });
    const lines = Array.from({ length: 20 }, (_, i) => ({
      iteration: i + 1,
      iteration_seconds: secondsPerIteration,
      tokens: 1000,
    }));
    write(`${dir}/metrics.jsonl`, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    const validation = (accuracy: number) => ({ sampled: share(accuracy), greedy: share(1) });
    write(`${dir}/validation.jsonl`, `${JSON.stringify({ iteration: 10, ...validation(0.6) })}\n`);
    write(`${dir}/summary.json`, {
      algo: algorithm,
      validation: { before: validation(0.4), after: validation(right / 100) },
      iterations: 20,
      wall_seconds: 50,
      train_seconds: 40,
      checkpoint: "checkpoints/step-000020",
      backend: "tensorflow",
      commit: null,
      stopped: false,
    });
    write(`${dir}/eval/metrics.json`, evaluation(seed, right));
  };
  beforeEach(() => {
    recordStudy(folder, study());
    write("baseline/metrics.json", evaluation(null, 40));
    for (const seed of [1, 2, 3]) {
      run("grpo", seed, 69 + seed, 1);
      run("ppo", seed, 80 + seed, 2);
    }
  });

  it("gives the verdict on the primary endpoint, and the rest as secondary", () => {
    const { primary, secondary, verdict, evaluations, notes } = compareStudy(folder);
    expect(primary).toHaveLength(1);
    expect(primary[0]).toMatchObject({
      matched_by: "rollouts",
      mode: "sampled",
      algorithms: ["grpo", "ppo"],
      seeds: 3,
    });
    expect(primary[0]!.difference).toBeCloseTo(0.11, 12);
    expect(primary[0]!.p_holm).toBe(primary[0]!.p);
    expect(verdict).toMatch(
      /^Sampled accuracy after 10,240 completions \(100 questions, 3 seeds\): ppo is better than grpo by 11\.0 points/,
    );
    expect(secondary.map((c) => `${c.mode} ${c.matched_by}`)).toEqual([
      "greedy rollouts",
      "sampled tokens",
      "greedy tokens",
      "sampled wall_time",
      "greedy wall_time",
    ]);
    // 20,000 tokens for all: the last points. 20 s for all: grpo's last points, ppo's at iteration
    // 10, 0.6
    expect(secondary[1]!.budgets).toEqual([20_000, 20_000, 20_000]);
    expect(secondary[1]!.difference).toBeCloseTo(0.11, 12);
    expect(secondary[3]).toMatchObject({ budgets: [20, 20, 20], b: [0.6, 0.6, 0.6], interpolated: true });
    expect(secondary[3]!.difference).toBeCloseTo(-0.11, 12);
    expect(evaluations).toHaveLength(2 * 7);
    expect(evaluations[0]).toMatchObject({ algorithm: null, mode: "sampled", accuracy: 0.4, against_baseline: null });
    expect(evaluations.at(-2)).toMatchObject({
      algorithm: "ppo",
      seed: 3,
      against_baseline: { only_a: 0, only_b: 43 },
    });
    expect(notes).toEqual([]);
  });

  it("may say that nothing was shown", () => {
    for (const [i, right] of [60, 90, 72].entries())
      write(`ppo-seed${i + 1}/eval/metrics.json`, evaluation(i + 1, right));
    expect(compareStudy(folder).verdict).toMatch(/: no difference shown \(ppo ahead by 3\.0 points/);
  });

  it("says which parts are finished", () => {
    const { configs } = study();
    const config = { ...configs["grpo"]!, seed: 1 };
    expect(trainingState(join(folder, "grpo-seed1"), config)).toBe("finished");
    const summary = JSON.parse(readFileSync(join(folder, "grpo-seed3/summary.json"), "utf8")) as object;
    write("grpo-seed3/summary.json", { ...summary, stopped: true });
    expect(trainingState(join(folder, "grpo-seed3"), { ...config, seed: 3 })).toBe("unfinished");
    expect(trainingState(join(folder, "grpo-seed9"), config)).toBe("new");
    expect(() => trainingState(join(folder, "grpo-seed2"), config)).toThrow(/differs in seed/);
    expect(readCurve(join(folder, "grpo-seed1")).map(({ tokens }) => tokens)).toEqual([0, 10_000, 20_000]);
  });

  it("compares nothing at equal tokens where a run did not count them", () => {
    const file = join(folder, "ppo-seed2/metrics.jsonl");
    writeFileSync(file, readFileSync(file, "utf8").replaceAll('"tokens":1000', '"tokens_per_second":500'));
    expect(readCurve(join(folder, "ppo-seed2")).map(({ tokens }) => tokens)).toEqual([null, null, null]);
    const { secondary, notes } = compareStudy(folder);
    expect(secondary.map((c) => c.matched_by)).toEqual(["rollouts", "wall_time", "wall_time"]);
    expect(notes).toEqual([
      "sampled accuracy at equal tokens is not compared: metrics.jsonl of a run does not count tokens.",
      "greedy accuracy at equal tokens is not compared: metrics.jsonl of a run does not count tokens.",
    ]);
  });

  it("refuses to become another study", () => {
    expect(() => recordStudy(folder, study({ seeds: [1, 2] }))).toThrow(/seeds \(\[1,2,3\] and \[1,2\]\)/);
    const other = study({
      overrides: { max_steps: 20, eval_steps: 10, eval: { num_problems: 100 }, temperature: 0.9 },
    });
    expect(() => recordStudy(folder, other)).toThrow(/overrides/);
    const record = readFileSync(join(folder, "study.json"), "utf8");
    expect(recordStudy(folder, study())).toBeNull();
    expect(readFileSync(join(folder, "study.json"), "utf8")).toBe(record);
  });

  it.each<[string, () => void, RegExp]>([
    ["a missing seed", () => rmSync(join(folder, "ppo-seed2/eval"), { recursive: true }), /missing: ppo seed 2\. Run/],
    [
      "two missing parts, both named",
      () => ["baseline", "grpo-seed3/eval"].forEach((part) => rmSync(join(folder, part), { recursive: true })),
      /missing: the baseline, grpo seed 3\./,
    ],
    ["an empty file", () => write("ppo-seed1/eval/metrics.json", " "), /ppo-seed1.eval.*an empty file/],
    [
      "other questions",
      () => write("ppo-seed1/eval/metrics.json", evaluation(1, 80, { questions_sha256: "other" })),
      /ppo-seed1.eval: expected results of the same questions.*the questions[^]*\n {2}node dist\/cli.js eval --model \S+ --data starter-test --limit \d+ --prompt default --modes sampled(,greedy)? --samples 1 --temperature 1 --max-new-tokens \d+ --seed 42 --out NEW$/,
    ],
    [
      "mixed prompts",
      () => write("grpo-seed2/eval/metrics.json", evaluation(2, 80, { prompt: "boxed" })),
      /grpo-seed2.eval.*the prompt's name \(--prompt\) \(default and boxed\)/,
    ],
    [
      "another number of samples",
      () => write("grpo-seed2/eval/metrics.json", evaluation(2, 80, { samples: 4 })),
      /--samples \(1 and 4\)/,
    ],
    [
      "the evaluation of another seed",
      () => write("grpo-seed2/eval/metrics.json", evaluation(3, 80)),
      /expected the evaluation of grpo with training seed 2, found one of seed 3/,
    ],
    ["a directory without a study", () => rmSync(join(folder, "study.json")), /found no study.json/],
  ])("refuses %s", (_, damage, message) => {
    damage();
    expect(() => compareStudy(folder)).toThrow(message);
  });
});
