/**
 * Predictions and whole evaluation, run and study directories as eval, launch and study write them,
 * made up in memory.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { runConfigSchema } from "../../src/config/schema.js";
import { type Prediction, judge } from "../../src/eval/folder/predictions.js";
import { modes } from "../../src/eval/folder/names.js";
import { summarize } from "../../src/eval/summary.js";
import { studySchema } from "../../src/study/definition.js";
import { Draw } from "../../src/math/random.js";
import { starterProblem } from "../../src/tasks/starter.js";

/** A prediction judged by the real code; 3 + 4 is asked unless something else is. */
export function prediction(given: Partial<Prediction>): Prediction {
  const one = {
    mode: "greedy" as const,
    index: 0,
    sample: 0,
    question: "Ann has 3 apples and buys 4. How many apples does she have?",
    answer: "3 + 4 = 7\n#### 7",
    text: "3 + 4 = 7\n#### 7",
    finish_reason: "stop" as const,
    ...given,
  };
  return judge({ id: `made-up/${one.index}`, tokens: one.text.length, ...one });
}

export interface Made {
  /** Chance of a right answer in each evaluation: baseline, then a run's. */
  readonly before: number;
  readonly after: Readonly<Record<string, number>>;
  readonly seeds: readonly number[];
  readonly questions: number;
  readonly iterations: number;
  /** Text of the baseline's wrong answers. */
  readonly text?: string;
}

/** A study directory with algorithms "grpo" and "ppo": made-up numbers, real formats. */
export function writeStudy(dir: string, made: Made): void {
  const algorithms = Object.keys(made.after);
  const setting = (key: string, ...values: unknown[]) => ({
    key,
    values: Object.fromEntries(algorithms.map((name, i) => [name, values[i]])),
  });
  writeEval(join(dir, "baseline"), made, made.before, 0, made.text);
  for (const [i, algorithm] of algorithms.entries())
    for (const seed of made.seeds) {
      const after = made.after[algorithm]! + 0.02 * (seed - 2);
      writeRun(join(dir, `${algorithm}-seed${seed}`), algorithm, seed, made, after);
      writeEval(join(dir, `${algorithm}-seed${seed}`, "eval"), made, after, 10 * seed + i + 1);
    }
  writeJson(join(dir, "study.json"), {
    version: 1,
    definition: studySchema.parse({
      name: "made-up",
      config: ["configs/starter.yaml"],
      algorithms: Object.fromEntries(algorithms.map((name) => [name, {}])),
      seeds: made.seeds,
      eval: { data: "starter", prompts: ["default"] },
      primary: "sampled",
    }),
    configs: Object.fromEntries(algorithms.map((algo) => [algo, runConfigSchema.parse({ algo })])),
    differences: [setting("optimizer_steps_per_batch", 1, 2)],
    own: [{ key: "lam", values: { ppo: 0.95 } }],
    commit: "0123456789abcdef0123456789abcdef01234567",
    earlier_commits: [],
    uncommitted_changes: false,
    machine: { cpu: "a processor", cores: 2, memory_gib: 8, system: "Linux", node: "v20", versions: {} },
  });
  const compared = (mode: string, matched_by: string, difference: number, half: number) => ({
    mode,
    matched_by,
    difference,
    difference_ci95: [difference - half, difference + half],
    prompt: "default",
    algorithms,
    budgets: made.seeds.map(() => 51_200),
    interpolated: matched_by !== "rollouts",
    seeds: made.seeds.length,
    p_holm: half > Math.abs(difference) ? 0.2 : 0.01,
    detectable: 1.3 * half,
  });
  writeJson(join(dir, "comparison.json"), {
    version: 1,
    verdict:
      "Sampled accuracy after 51,200 completions (64 questions, 3 seeds): no difference shown (ppo ahead by 2.1 points).",
    primary: [compared("sampled", "rollouts", 0.021, 0.04)],
    secondary: [
      compared("greedy", "rollouts", 0.004, 0.012),
      compared("sampled", "tokens", 0.03, 0.024),
      compared("sampled", "wall_time", -0.05, 0.02),
    ],
    evaluations: algorithms.flatMap((algorithm) =>
      made.seeds.map((seed) => ({
        algorithm,
        seed,
        prompt: "default",
        mode: "sampled",
        against_baseline: { difference: 0.4 + 0.01 * seed, difference_ci95: [0.3 + 0.01 * seed, 0.5], p_holm: 0.001 },
      })),
    ),
    notes: [],
  });
}

/** An evaluation directory; the answers to the generated problems are right with chance `right`. */
function writeEval(dir: string, { questions }: Made, right: number, salt: number, text?: string): void {
  const predictions = modes.flatMap((mode) =>
    Array.from({ length: questions }, (_, index) => {
      const { id, question, answer } = starterProblem("validation", index);
      const draw = new Draw(index, salt, modes.indexOf(mode));
      const isRight = draw.unit() < (mode === "greedy" ? 0.5 + right / 2 : right);
      const ways = [
        "12 + 5 = 18\n#### 18",
        "12 + 5 = 17\n#### 17.5",
        "I do not know.",
        `So it is ${answer.split("#### ")[1]} in all.`,
      ];
      return prediction({
        mode,
        index,
        id,
        question,
        answer,
        text: isRight ? answer : text !== undefined ? text : ways[draw.int(0, 3)]!,
      });
    }),
  );
  const metrics = Object.fromEntries(
    modes.map((mode) => [
      mode,
      summarize(
        predictions.filter((one) => one.mode === mode),
        1,
        10,
      ),
    ]),
  );
  writeJson(join(dir, "metrics.json"), {
    version: 1,
    model: "assets/starter",
    data: "starter",
    n: questions,
    prompt: "default",
    questions_sha256: "a".repeat(64),
    prompt_sha256: "b".repeat(64),
    weights_sha256: String(salt).padStart(64, "0"),
    seed: 42,
    train_seed: salt === 0 ? null : Math.floor(salt / 10),
    max_new_tokens: 64,
    temperature: 1,
    samples: 1,
    wall_seconds: 12,
    ...metrics,
  });
  writeFileSync(join(dir, "predictions.jsonl"), predictions.map((one) => `${JSON.stringify(one)}\n`).join(""));
}

/** A run directory as the learner leaves it after a run that ended well. */
export function writeRun(
  dir: string,
  algo: string,
  seed: number,
  { before, iterations }: Pick<Made, "before" | "iterations">,
  after: number,
): void {
  const at = (iteration: number): number => before + (after - before) * (1 - Math.exp((-3 * iteration) / iterations));
  const accuracy = (share: number) => ({ accuracy: share, ci95: [share - 0.04, share + 0.04], n: 512 });
  const validation = (share: number) => ({ sampled: accuracy(share), greedy: accuracy(0.9 + share / 20) });
  const draw = new Draw(seed);
  const seconds = algo === "ppo" ? 2.2 : 1.7;
  const lines = Array.from({ length: iterations }, (_, i) => ({
    iteration: i + 1,
    reward: at(i) + 0.04 * (draw.unit() - 0.5),
    accuracy: at(i),
    "outcome/unparsed": 0.02,
    "outcome/truncated": 0.01,
    "outcome/error": 0,
    reward_errors: 0,
    "completions/mean_length": 20 + 8 * at(i) + draw.unit(),
    "completions/clipped_ratio": 0.02 * (1 - at(i)),
    loss: 0.01,
    entropy: 0.15 - 0.1 * at(i),
    grad_norm: 0.3 + 0.1 * draw.unit(),
    "staleness/max": 1,
    "sampling/actor_learner_logprob_gap/max": 4e-6,
    skipped_updates: 0,
    filtered_groups: 0,
    "idle/learner": 0.02,
    "idle/actor": 0.5,
    iteration_seconds: seconds,
    tokens_per_second: 6_000,
    tokens: 6_000 * seconds,
    completions_per_second: 512 / seconds,
    wall_seconds: seconds * (i + 1) + 10,
    groups_received: 64 * (i + 1),
  }));
  const jsonl = (list: readonly object[]): string => list.map((line) => `${JSON.stringify(line)}\n`).join("");
  const config = runConfigSchema.parse({
    algo,
    seed,
    run_dir: dir,
    max_steps: iterations,
    model: { path: "assets/starter" },
    data: { train: "starter", validation: "starter" },
  });
  writeJson(join(dir, "config.json"), config);
  writeFileSync(join(dir, "metrics.jsonl"), jsonl(lines));
  const between = [0.25, 0.5, 0.75].map((part) => Math.round(part * iterations));
  writeFileSync(
    join(dir, "validation.jsonl"),
    jsonl(between.map((iteration) => ({ iteration, ...validation(at(iteration)) }))),
  );
  writeJson(join(dir, "summary.json"), {
    algo,
    validation: { before: validation(before), after: validation(at(iterations)) },
    iterations,
    wall_seconds: seconds * iterations + 20,
    train_seconds: seconds * iterations,
    backend: "tensorflow (libtensorflow 2.21.0)",
    commit: "0123456789abcdef0123456789abcdef01234567",
    checkpoint: "checkpoints/step-000100",
    stopped: false,
  });
}

function writeJson(file: string, value: unknown): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify(value));
}
