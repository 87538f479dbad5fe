/**
 * (c) Completions/s of whole training runs: `launch` against TRL's GRPOTrainer, two threads in all
 * on either side.
 */
import { join } from "node:path";
import type { BenchContext, BenchResult, CaseResult } from "./bench.js";
import { interleave, mean } from "./measure.js";
import { starterModel } from "./models.js";
import { writeRandomModel } from "./random-model.js";
import { launchRun, trlRun, withProblems, type RunOptions, type RunSeen } from "./runs.js";

/** The first steps fill the pipeline and warm libraries up. */
const SKIPPED = 3;
const TRL = "TRL GRPOTrainer";

interface Size {
  readonly completions: number;
  readonly steps: number;
}

export async function benchEndToEnd(context: BenchContext): Promise<BenchResult> {
  const sizes = [
    { completions: 64, steps: 33 },
    { completions: 512, steps: 13 },
  ];
  return {
    title: "Training end to end, starter model",
    cases: await casesOf(context, sizes, "correctness", () => starterModel),
    ...common,
    notes: [...common.notes, "Real lengths: to the stop token, at most 64 new tokens."],
  };
}

/**
 * Ten million parameters, weights of chance: no completion ever stops, so all have the same length
 * on both sides.
 */
export async function benchEndToEnd10m(context: BenchContext): Promise<BenchResult> {
  const sizes = [{ completions: 128, steps: 8 }];
  return {
    title: "Training end to end, 10 M parameters",
    cases: await casesOf(context, sizes, "digits", (folder) => writeRandomModel(join(folder, "10m"), "10M")),
    ...common,
    notes: [
      ...common.notes,
      "Random weights whose stop tokens are never sampled: every completion has 64 tokens. Reward: 1 for an odd number of digits.",
    ],
  };
}

const common = {
  unit: "completions/s",
  better: "higher" as const,
  peerNames: [TRL],
  notes: [
    `Completions of the steps after the first ${SKIPPED}, over the seconds from the end of one to the end of the next. Groups of 8, temperature 1, AdamW, no KL, no evaluation, no checkpoint before the end.`,
    "Ours: one actor and the learner on the same two cores, threads as the launcher shares them out (actor 1, learner 2), samples at most one iteration old. TRL: two torch threads, strictly on-policy, microbatches of 64 rows.",
  ],
};

async function casesOf(
  { python, quick, progress }: BenchContext,
  sizes: readonly Size[],
  reward: RunOptions["reward"],
  modelIn: (folder: string) => string,
): Promise<CaseResult[]> {
  const cases: CaseResult[] = [];
  await withProblems(async (folder) => {
    const model = modelIn(folder);
    for (const size of quick ? [{ completions: 16, steps: SKIPPED + 1 }] : sizes) {
      const seen: { ours: RunSeen[]; peer: RunSeen[] } = { ours: [], peer: [] };
      const timed = (measure: (options: RunOptions) => Promise<RunSeen>, into: RunSeen[]) => async (repeat: number) => {
        if (repeat < 0) return 0; // every run warms itself up
        const options = { model, ...size, reward, saveSteps: 0, folder, seed: repeat };
        into.push(await measure(options));
        return size.completions / mean(into.at(-1)!.seconds.slice(SKIPPED));
      };
      const trl = python === null ? {} : { [TRL]: timed((options) => trlRun(python, options), seen.peer) };
      const measured = await interleave(timed(launchRun, seen.ours), trl, quick ? 1 : 3);
      // The same model on the same problems: both sides must see about the same lengths and
      // rewards.
      const means = { ...meansOf(seen.ours, "Ours"), ...meansOf(seen.peer, "Peer") };
      const forced = reward === "digits" ? [means["meanLengthOurs"], means["meanLengthPeer"] ?? 64] : [64];
      if (forced.some((length) => length !== 64)) throw new Error(`lengths ${forced.join(" and ")}, expected 64`);
      const name = `${size.completions} completions a step, threads: 2`;
      cases.push({ name, settings: { ...size, skipped: SKIPPED, threads: 2, ...means }, ...measured });
      progress(name);
    }
  });
  return cases;
}

function meansOf(seen: readonly RunSeen[], side: "Ours" | "Peer"): Record<string, number> {
  if (seen.length === 0) return {};
  return {
    [`meanReward${side}`]: mean(seen.map(({ reward }) => reward)),
    [`meanLength${side}`]: mean(seen.map(({ length }) => length)),
  };
}
