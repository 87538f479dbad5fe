/**
 * (c) Completions/s of whole training runs: `launch` against TRL's GRPOTrainer, two threads in all
 * on either side.
 */
import { join } from "node:path";
import type { BenchContext, BenchResult, CaseResult, Skipped } from "./bench.js";
import { interleave, mean } from "./measure.js";
import { noQwen, starterModel } from "./models.js";
import { writeRandomModel } from "./random-model.js";
import { repositoryFile } from "./side.js";
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

/** The system message of configs/qwen2.5-0.5b.yaml. */
const BOXED = "Please reason step by step, and put your final answer within \\boxed{}.";

/** Half a billion parameters and GSM8K: the only case in which a peer's step takes minutes. */
export async function benchEndToEnd05b(context: BenchContext): Promise<BenchResult | Skipped> {
  const { qwen, gsm8k, python, quick, progress } = context;
  if (qwen === null) return noQwen;
  if (gsm8k === null) return { skipped: "GSM8K is not there; --gsm8k DIR names a folder with train.jsonl" };
  const [completions, maxNewTokens] = quick ? [16, 8] : [64, 256];
  // Ours is a pipeline: its first step has waited for everything. TRL's steps stand alone.
  const steps = { ours: quick ? 2 : 4, trl: 1 };
  const skipped = 1;
  const precisions = ["float32", "bfloat16"] as const;
  const seen: { ours: RunSeen[]; peer: RunSeen[] } = { ours: [], peer: [] };
  const cases: CaseResult[] = [];
  await withProblems(async (folder) => {
    const common = { model: qwen, data: join(gsm8k, "train.jsonl"), completions, saveSteps: 0, folder };
    const ours = async (repeat: number): Promise<number> => {
      if (repeat < 0) return 0;
      const flags = {
        config: repositoryFile("configs/qwen2.5-0.5b.yaml"),
        max_completion_length: maxNewTokens,
        "actors.dtype": "int8",
        "actors.threads": 2,
        "selftest.max_logprob_gap": "null",
        "selftest.mean_logprob_gap": 0.1,
      };
      seen.ours.push(
        await launchRun({ ...common, steps: steps.ours, seed: repeat, reward: "correctness", ours: flags }),
      );
      return completions / mean(seen.ours.at(-1)!.seconds.slice(skipped));
    };
    const trl = (interpreter: string, dtype: string) => async (repeat: number) => {
      if (repeat < 0) return 0;
      const flags = {
        "max-new-tokens": maxNewTokens,
        rows: 8,
        rate: 1e-4,
        "warmup-steps": 0,
        system: BOXED,
        "lora-r": 16,
      };
      const run = { ...common, steps: steps.trl, seed: repeat, reward: "boxed", trl: { ...flags, dtype } } as const;
      seen.peer.push(await trlRun(interpreter, run));
      return completions / mean(seen.peer.at(-1)!.seconds);
    };
    const peers =
      python === null ? {} : Object.fromEntries(precisions.map((dtype) => [`TRL, ${dtype}`, trl(python, dtype)]));
    const measured = await interleave(ours, peers, quick ? 1 : 2);
    const means = { ...meansOf(seen.ours, "Ours"), ...meansOf(seen.peer, "Peer") };
    const name = `${completions} completions a step of at most ${maxNewTokens} tokens, LoRA, threads: 2`;
    cases.push({ name, settings: { completions, maxNewTokens, threads: 2, ...means }, ...measured });
    progress(name);
  });
  return {
    title: "Training end to end, Qwen2.5-Coder-0.5B on GSM8K",
    unit: "completions/s",
    better: "higher",
    peerNames: precisions.map((dtype) => `TRL, ${dtype}`),
    cases,
    notes: [
      `Ours: steps 2 to ${steps.ours}, an int8 actor and the learner on the same two cores, products of bfloat16 where the processor has them, samples at most one iteration old. TRL: its first step; two torch threads, microbatches of 8 rows.`,
      "Both: groups of 8 that share a question, LoRA of rank 16 on every linear layer, temperature 1, AdamW, no KL, no evaluation, right answers earn 1.",
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
