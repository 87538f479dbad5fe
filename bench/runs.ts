/**
 * Whole training runs of both sides on the same problems: `launch`, and TRL's GRPOTrainer
 * (peers/trl_grpo.py).
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { threadEnv } from "../src/launcher/threads.js";
import { starterProblem } from "../src/tasks/starter.js";
import { mean } from "./measure.js";
import { run } from "./python.js";
import { benchFile, repositoryFile } from "./side.js";

const PROBLEMS = 4_096;

export interface RunOptions {
  readonly model: string;
  /** A step. */
  readonly completions: number;
  readonly steps: number;
  readonly reward: "correctness" | "digits" | "boxed";
  /** A checkpoint every so many steps; 0 = none on the way. */
  readonly saveSteps: number;
  /** The folder that `withProblems` made. */
  readonly folder: string;
  readonly seed: number;
  /** Training questions; by default the starter's, in that folder. */
  readonly data?: string;
  /** More flags of `launch`, and of peers/trl_grpo.py. */
  readonly ours?: Readonly<Record<string, string | number>>;
  readonly trl?: Readonly<Record<string, string | number>>;
}

/** What a run says of itself. */
export interface RunSeen {
  /** From the end of one step to the end of the next, of each step; saving is not in it. */
  readonly seconds: readonly number[];
  /** Means over all steps. */
  readonly reward: number;
  readonly length: number;
  /** Folder of the checkpoint after a step that was saved. */
  readonly checkpoint: (step: number) => string;
}

/** A temporary folder with the training problems, removed afterwards. */
export async function withProblems(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "frl-bench-"));
  try {
    const problems = Array.from({ length: PROBLEMS }, (_, i) => starterProblem("train", i));
    const lines = problems.map(({ question, answer }) => `${JSON.stringify({ question, answer })}\n`);
    writeFileSync(join(folder, "problems.jsonl"), lines.join(""));
    await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * One actor and the learner, threads as the launcher shares them out; configs/starter.yaml for what
 * is not said here.
 */
export async function launchRun(options: RunOptions): Promise<RunSeen> {
  const { model, completions, steps, reward, saveSteps, folder, seed } = options;
  const runDir = mkdtempSync(join(folder, "ours-"));
  const keys = {
    seed,
    run_dir: join(runDir, "run"),
    "model.path": model,
    "data.train": dataOf(options),
    max_steps: steps,
    generation_batch_size: completions,
    "eval.sampled": false,
    "eval.greedy": false,
    save_steps: saveSteps,
    save_total_limit: 1_000,
    ...(reward === "digits" && { "reward.functions": JSON.stringify([{ name: benchFile("digits-reward.mjs") }]) }),
    ...options.ours,
  };
  const words = Object.entries(keys).map(([key, value]) => `--${key}=${value}`);
  await run(process.execPath, [repositoryFile("dist/launch.js"), "--algo", "grpo", ...words], { maxBuffer: 2 ** 26 });
  const lines = readFileSync(join(runDir, "run/metrics.jsonl"), "utf8").trim().split("\n");
  const metrics = lines.map((line) => JSON.parse(line) as Record<string, number>);
  const column = (key: string) => metrics.map((line) => line[key]!);
  return checked(options, {
    seconds: column("iteration_seconds"),
    reward: mean(column("reward")),
    length: mean(column("completions/mean_length")),
    checkpoint: (step) => join(runDir, "run/checkpoints", `step-${String(step).padStart(6, "0")}`),
  });
}

/** Two torch threads throughout; the same rates, warm-up and clipping. */
export async function trlRun(python: string, options: RunOptions): Promise<RunSeen> {
  const { model, completions, steps, reward, saveSteps, folder, seed } = options;
  const out = join(mkdtempSync(join(folder, "trl-")), "seen.json");
  const data = dataOf(options);
  const args = {
    model,
    data,
    out,
    completions,
    steps,
    reward,
    "save-steps": saveSteps,
    threads: 2,
    seed,
    ...options.trl,
  };
  const words = Object.entries(args).flatMap(([name, value]) => [`--${name}`, String(value)]);
  await run(python, [benchFile("peers/trl_grpo.py"), ...words], {
    env: { ...process.env, ...threadEnv(2), HF_HUB_OFFLINE: "1" },
    maxBuffer: 2 ** 26,
  });
  const seen = JSON.parse(readFileSync(out, "utf8")) as Omit<RunSeen, "checkpoint">;
  return checked(options, { ...seen, checkpoint: (step) => join(`${out}.trl`, `checkpoint-${step}`) });
}

const dataOf = ({ data, folder }: RunOptions): string => data ?? join(folder, "problems.jsonl");

function checked({ steps }: RunOptions, seen: RunSeen): RunSeen {
  if (seen.seconds.length !== steps) throw new Error(`${seen.seconds.length} steps were timed, expected ${steps}`);
  return seen;
}
