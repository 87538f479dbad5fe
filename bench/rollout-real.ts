/**
 * (a) Rollout tokens/s, SmolLM2-135M and Qwen2.5-Coder-0.5B on questions of GSM8K: our engine
 * against transformers' generate and llama.cpp.
 */
import type { BenchContext, BenchResult, CaseResult, Skipped } from "./bench.js";
import { float32Gguf } from "./gguf.js";
import { gsm8kPrompts, noQwen, noSmollm2, type Prompts } from "./models.js";
import type { RolloutReply, RolloutRequest } from "./requests.js";
import { rolloutCase, type ModelAt, type RolloutCase } from "./rollout.js";
import { Side, closing } from "./side.js";

const THREADS = 2;
const GENERATE = "transformers generate";
const LLAMA = "llama.cpp f32";
/** More of them would be equal too, until two logits are closer than rounding. */
const GREEDY_TOKENS = 16;

type Load = Pick<RolloutCase, "lengths" | "rows" | "completions" | "maxNewTokens" | "dtype">;

const loads135m: readonly Load[] = [
  { lengths: "real", rows: 16, completions: 32, maxNewTokens: 160 },
  { lengths: "fixed", rows: 16, completions: 16, maxNewTokens: 64 },
  { lengths: "fixed", rows: 1, completions: 1, maxNewTokens: 64 },
];
const loads05b: readonly Load[] = [
  { lengths: "real", rows: 32, completions: 32, maxNewTokens: 128 },
  { lengths: "real", rows: 32, completions: 32, maxNewTokens: 128, dtype: "int8" },
  { lengths: "fixed", rows: 1, completions: 1, maxNewTokens: 64 },
];
const quickLoads: readonly Load[] = [
  { lengths: "real", rows: 16, completions: 16, maxNewTokens: 8 },
  { lengths: "fixed", rows: 1, completions: 1, maxNewTokens: 8, dtype: "int8" },
];

export async function benchRollout135m(context: BenchContext): Promise<BenchResult | Skipped> {
  return context.smollm2 === null ? noSmollm2 : benchModel(context, "SmolLM2-135M", context.smollm2, loads135m);
}

export async function benchRollout05b(context: BenchContext): Promise<BenchResult | Skipped> {
  return context.qwen === null ? noQwen : benchModel(context, "Qwen2.5-Coder-0.5B", context.qwen, loads05b);
}

async function benchModel(
  { python, llama, gsm8k, quick, progress }: BenchContext,
  title: string,
  model: string,
  loads: readonly Load[],
): Promise<BenchResult> {
  const prompts = gsm8kPrompts(model, gsm8k);
  const ours: ModelAt = { side: Side.ours(THREADS), model };
  const peers: Record<string, ModelAt> = {};
  if (python !== null) peers[GENERATE] = { side: Side.torch(python, THREADS), model };
  if (python !== null && llama)
    peers[LLAMA] = { side: Side.llama(python, THREADS), model: await float32Gguf(python, model, progress) };
  const sides = [ours, ...Object.values(peers)];
  const cases: CaseResult[] = [];
  await closing(
    sides.map(({ side }) => side),
    async () => {
      await checkGreedy(sides, prompts);
      for (const load of quick ? quickLoads : loads) {
        const repeats = quick ? 1 : 3;
        const measured = await rolloutCase({ ours: [ours], peers, prompts, ...load, repeats, warmUpTokens: 8 });
        const rounded = load.dtype === "int8" ? ", ours int8" : "";
        const name = `${load.lengths} lengths${rounded}, B = ${load.rows}, ${load.completions} × ≤ ${load.maxNewTokens} tokens`;
        cases.push({ name, ...measured, settings: { threads: THREADS, ...measured.settings } });
        progress(name);
      }
    },
  );
  return {
    title: `Rollout, ${title}, ${THREADS} threads`,
    unit: "tokens/s",
    better: "higher",
    peerNames: [GENERATE, LLAMA],
    cases,
    notes: [
      `Prompts: ${gsm8k === null ? "the starter's problems (GSM8K is not there)" : "questions of GSM8K's training set"}; float32 on every side, but where ours is int8. real lengths: to the stop token, which counts; fixed: no stop.`,
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
