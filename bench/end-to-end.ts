/** (c) Completions/s of whole training runs: `launch` against TRL's GRPOTrainer, two threads in all on either side. */
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { starterProblem } from "../src/tasks/starter.js";
import type { BenchContext, BenchResult, CaseResult } from "./bench.js";
import { interleave, mean } from "./measure.js";
import { benchFile, repositoryFile } from "./side.js";
import { starterModel } from "./models.js";

/** The first iterations fill the pipeline and warm libraries up. */
const SKIPPED = 3;
const PROBLEMS = 4_096;
const TRL = "TRL GRPOTrainer";

const run = promisify(execFile);

export async function benchEndToEnd({ python, quick, progress }: BenchContext): Promise<BenchResult> {
  const folder = mkdtempSync(join(tmpdir(), "frl-bench-"));
  const cases: CaseResult[] = [];
  try {
    const data = join(folder, "problems.jsonl");
    const problems = Array.from({ length: PROBLEMS }, (_, i) => starterProblem("train", i));
    writeFileSync(data, problems.map(({ question, answer }) => `${JSON.stringify({ question, answer })}\n`).join(""));
    const sizes = quick
      ? [{ completions: 64, steps: 5 }]
      : [
          { completions: 64, steps: 33 },
          { completions: 512, steps: 13 },
        ];
    for (const size of sizes) {
      const seen: { ours: Seen[]; peer: Seen[] } = { ours: [], peer: [] };
      const timed = (measure: (options: RunOptions) => Promise<Seen>, into: Seen[]) => async (repeat: number) => {
        if (repeat < 0) return 0; // every run warms itself up
        into.push(await measure({ ...size, data, folder, repeat }));
        return into.at(-1)!.rate;
      };
      const trl = python === null ? {} : { [TRL]: timed((options) => trlRun(python, options), seen.peer) };
      const measured = await interleave(timed(launchRun, seen.ours), trl, quick ? 1 : 3);
      const name = `${size.completions} completions a step, threads: 2`;
      // The same model on the same problems: both sides must see about the same lengths and rewards.
      const means = { ...meansOf(seen.ours, "Ours"), ...meansOf(seen.peer, "Peer") };
      cases.push({ name, settings: { ...size, skipped: SKIPPED, threads: 2, ...means }, ...measured });
      progress(name);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return {
    title: "Training end to end, starter model",
    unit: "completions/s",
    better: "higher",
    peerNames: [TRL],
    cases,
    notes: [
      `Completions of the iterations after the first ${SKIPPED}, over the seconds from the end of one to the end of the next. Groups of 8, at most 64 new tokens, temperature 1, AdamW, no KL, no evaluation, no checkpoint before the end.`,
      "Ours: one actor and the learner with one thread each, samples at most one iteration old. TRL: two torch threads, strictly on-policy, microbatches of 64 rows.",
    ],
  };
}

interface RunOptions {
  readonly completions: number;
  readonly steps: number;
  readonly data: string;
  readonly folder: string;
  readonly repeat: number;
}

/** What a run says of itself: completions/s, and means over all of its steps. */
interface Seen {
  readonly rate: number;
  readonly reward: number;
  readonly length: number;
}

async function launchRun({ completions, steps, data, folder, repeat }: RunOptions): Promise<Seen> {
  const runDir = join(folder, `ours-${completions}-${repeat}`);
  const keys = {
    seed: repeat,
    run_dir: runDir,
    "model.path": starterModel,
    "data.train": data,
    max_steps: steps,
    generation_batch_size: completions,
    "learner.threads": 1,
    "actors.threads": 1,
    "eval.sampled": false,
    "eval.greedy": false,
    save_steps: 0,
  };
  const words = Object.entries(keys).map(([key, value]) => `--${key}=${value}`);
  await run(process.execPath, [repositoryFile("dist/launch.js"), "--algo", "grpo", ...words]);
  const lines = readFileSync(join(runDir, "metrics.jsonl"), "utf8").trim().split("\n");
  const metrics = lines.map((line) => JSON.parse(line) as Record<string, number>);
  const column = (key: string) => metrics.map((line) => line[key]!);
  return {
    rate: rateOf(column("iteration_seconds"), completions, steps),
    reward: mean(column("reward")),
    length: mean(column("completions/mean_length")),
  };
}

async function trlRun(python: string, { completions, steps, data, folder, repeat }: RunOptions): Promise<Seen> {
  const out = join(folder, `trl-${completions}-${repeat}.json`);
  const args = { model: starterModel, data, out, completions, steps, threads: 2, seed: repeat };
  const words = Object.entries(args).flatMap(([name, value]) => [`--${name}`, String(value)]);
  await run(python, [benchFile("peers/trl_grpo.py"), ...words], {
    env: { ...process.env, OMP_NUM_THREADS: "2", HF_HUB_OFFLINE: "1" },
  });
  const { seconds, reward, length } = JSON.parse(readFileSync(out, "utf8")) as Omit<Seen, "rate"> & {
    seconds: number[];
  };
  return { rate: rateOf(seconds, completions, steps), reward, length };
}

function rateOf(seconds: readonly number[], completions: number, steps: number): number {
  if (seconds.length !== steps) throw new Error(`${seconds.length} iterations were timed, expected ${steps}`);
  return completions / mean(seconds.slice(SKIPPED));
}

function meansOf(seen: readonly Seen[], side: "Ours" | "Peer"): Record<string, number> {
  if (seen.length === 0) return {};
  return {
    [`meanReward${side}`]: mean(seen.map(({ reward }) => reward)),
    [`meanLength${side}`]: mean(seen.map(({ length }) => length)),
  };
}
