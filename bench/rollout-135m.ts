/**
 * (a) Rollout tokens/s, SmolLM2-135M on questions of GSM8K: our engine against transformers'
 * generate and llama.cpp.
 */
import type { BenchContext, BenchResult, CaseResult, Skipped } from "./bench.js";
import { float32Gguf } from "./gguf.js";
import { gsm8kPrompts, noSmollm2, type Prompts } from "./models.js";
import type { RolloutReply, RolloutRequest } from "./requests.js";
import { rolloutCase, type ModelAt } from "./rollout.js";
import { Side, closing } from "./side.js";

const THREADS = 2;
const GENERATE = "transformers generate";
const LLAMA = "llama.cpp f32";
/** More of them would be equal too, until two logits are closer than rounding. */
const GREEDY_TOKENS = 16;

const loads = [
  { lengths: "real", rows: 16, completions: 32, maxNewTokens: 160 },
  { lengths: "fixed", rows: 16, completions: 16, maxNewTokens: 64 },
  { lengths: "fixed", rows: 1, completions: 1, maxNewTokens: 64 },
] as const;
const quickLoads = [
  { lengths: "real", rows: 16, completions: 16, maxNewTokens: 8 },
  { lengths: "fixed", rows: 1, completions: 1, maxNewTokens: 8 },
] as const;

export async function benchRollout135m(context: BenchContext): Promise<BenchResult | Skipped> {
  const { python, llama, smollm2, gsm8k, quick, progress } = context;
  if (smollm2 === null) return noSmollm2;
  const prompts = gsm8kPrompts(smollm2, gsm8k);
  const ours: ModelAt = { side: Side.ours(THREADS), model: smollm2 };
  const peers: Record<string, ModelAt> = {};
  if (python !== null) peers[GENERATE] = { side: Side.torch(python, THREADS), model: smollm2 };
  if (python !== null && llama)
    peers[LLAMA] = { side: Side.llama(python, THREADS), model: await float32Gguf(python, smollm2, progress) };
  const sides = [ours, ...Object.values(peers)];
  const cases: CaseResult[] = [];
  await closing(
    sides.map(({ side }) => side),
    async () => {
      await checkGreedy(sides, prompts);
      for (const load of quick ? quickLoads : loads) {
        const repeats = quick ? 1 : 3;
        const measured = await rolloutCase({ ours: [ours], peers, prompts, ...load, repeats, warmUpTokens: 8 });
        const name = `${load.lengths} lengths, B = ${load.rows}, ${load.completions} × ≤ ${load.maxNewTokens} tokens`;
        cases.push({ name, ...measured, settings: { threads: THREADS, ...measured.settings } });
        progress(name);
      }
    },
  );
  return {
    title: `Rollout, SmolLM2-135M, ${THREADS} threads`,
    unit: "tokens/s",
    better: "higher",
    peerNames: [GENERATE, LLAMA],
    cases,
    notes: [
      `Prompts: ${gsm8k === null ? "the starter's problems (GSM8K is not there)" : "questions of GSM8K's training set"}; float32 on every side. real lengths: to the stop token, which counts; fixed: no stop.`,
      "B: completions in flight (generate: batch size, batches one after the other; llama.cpp: sequences, a free place is filled at once); groups of 8 share a prompt (B = 1: no group).",
      `Before anything is timed, the first ${GREEDY_TOKENS} greedy tokens of all sides must be equal.`,
    ],
  };
}

/** All sides must be the same model. */
async function checkGreedy(sides: readonly ModelAt[], { prompts, padId }: Prompts): Promise<void> {
  const answers: string[] = [];
  for (const { side, model } of sides) {
    const { completions } = await side.ask<RolloutReply>({
      op: "rollout",
      model,
      prompts: prompts(0, 1),
      groupSize: 1,
      rows: 1,
      maxNewTokens: GREEDY_TOKENS,
      temperature: 0,
      stopIds: [],
      padId,
      seed: 0,
    } satisfies RolloutRequest);
    answers.push(completions[0]!.join(" "));
  }
  if (new Set(answers).size > 1)
    throw new Error(`the sides are not the same model, greedy ids: ${answers.join(" | ")}`);
}
