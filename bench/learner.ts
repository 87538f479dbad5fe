/** (b) Seconds of one GRPO step: our packed batch against torch's padded one. */
import type { BenchContext, BenchResult, CaseResult } from "./bench.js";
import { interleave } from "./measure.js";
import type { LearnerGroup, LearnerReply, LearnerRequest, RolloutReply } from "./requests.js";
import { Side } from "./side.js";
import { starterModel, starterPrompts } from "./models.js";

/** Both sides must compute the same gradient, or the comparison is of nothing. */
const MAX_GRADIENT_GAP = 0.001;
const PEER = "torch, padded batch";

const batches = [
  { kind: "shared", groups: 8, groupSize: 8 },
  { kind: "shared", groups: 64, groupSize: 8 },
  { kind: "unrelated", groups: 64, groupSize: 1 },
];

export async function benchLearner({ python, quick, progress }: BenchContext): Promise<BenchResult> {
  const cases: CaseResult[] = [];
  for (const threads of quick ? [1] : [1, 2]) {
    const ours = Side.ours(threads);
    const torch = python === null ? null : Side.torch(python, threads);
    try {
      for (const { kind, groups, groupSize } of quick ? batches.filter((b) => b.groups * b.groupSize <= 64) : batches) {
        const request = await batchOf(ours, groups, groupSize);
        const norms: number[] = [];
        const seconds = (side: Side) => async (repeat: number) => {
          const reply = await side.ask<LearnerReply>(request);
          if (repeat < 0) norms.push(reply.gradNorm);
          return reply.seconds;
        };
        const measured = await interleave(
          seconds(ours),
          torch === null ? {} : { [PEER]: seconds(torch) },
          quick ? 1 : 9,
        );
        const [a, b = a!] = norms;
        if (Math.abs(a! - b) > MAX_GRADIENT_GAP * Math.abs(b))
          throw new Error(`gradient norms ${a} (ours) and ${b} (torch) differ: the sides do not compute the same step`);
        const name = `${kind} prompts, ${groups} × ${groupSize} completions, threads: ${threads}`;
        cases.push({
          name,
          settings: { kind, groups, groupSize, threads, gradNormOurs: a!, ...(torch && { gradNormPeer: b }) },
          ...measured,
        });
        progress(name);
      }
    } finally {
      ours.close();
      torch?.close();
    }
  }
  return {
    title: "Learner step, starter model",
    unit: "s",
    better: "lower",
    peerNames: [PEER],
    cases,
    notes: [
      "One GRPO iteration on the starter's own completions (real lengths): advantages, forward, backward, clipping, AdamW. torch: microbatches of 64 rows, logits of all completion places. The rate is near 0, so that every repeat is the same step.",
      "unrelated: one completion a prompt, so every advantage is 0 and both sides train on an entropy bonus (without it we would skip such groups).",
      "Before anything is timed, the gradient norms of both sides at the first step must agree to 0.1 %.",
    ],
  };
}

/** Completions sampled by our engine; every second one of a group earns the reward. */
async function batchOf(ours: Side, count: number, groupSize: number): Promise<LearnerRequest> {
  const { prompts, stopIds, padId } = starterPrompts();
  const asked = prompts(0, count);
  const { completions, logprobs } = await ours.ask<RolloutReply>({
    op: "rollout",
    model: starterModel,
    prompts: asked,
    groupSize,
    rows: 64,
    maxNewTokens: 64,
    temperature: 1,
    stopIds,
    padId,
    seed: 1,
  });
  const groups = asked.map((promptIds, g): LearnerGroup => {
    const own = [g * groupSize, (g + 1) * groupSize] as const;
    const members = completions.slice(...own);
    return {
      promptIds,
      completions: members,
      logprobs: logprobs!.slice(...own),
      rewards: members.map((_, i) => i % 2),
    };
  });
  return { op: "learner", model: starterModel, groups, entropyCoef: groupSize === 1 ? 0.01 : 0, padId };
}
