/**
 * (b) Seconds of one GRPO step: our packed batch against torch's padded one, and against a packed
 * one in torch.
 */
import type { BenchContext, BenchResult, CaseResult, Skipped } from "./bench.js";
import { interleave, type Measure } from "./measure.js";
import { gsm8kPrompts, noQwen, noSmollm2, starterModel, starterPrompts, type Prompts } from "./models.js";
import { withAdapter } from "./random-model.js";
import type { LearnerGroup, LearnerReply, LearnerRequest, RolloutReply, RolloutRequest } from "./requests.js";
import { Side, closing } from "./side.js";

/** All sides must compute the same gradient, or the comparison is of nothing. */
const MAX_GRADIENT_GAP = { tensorflow: 0.001, wasm: 0.005, bfloat16: 0.03 };
const MAX_NEW_TOKENS = 64;
export const PADDED = "torch, padded batch";
export const PACKED = "torch, packed batch";

export interface LearnerCase {
  readonly model: string;
  readonly prompts: Prompts;
  readonly kind: "shared" | "unrelated";
  readonly groups: number;
  readonly groupSize: number;
  readonly threads: 1 | 2;
  readonly trained: "full" | "LoRA";
  readonly backend: LearnerRequest["backend"];
  readonly matmul?: LearnerRequest["matmul"];
  /** TRL's per_device_train_batch_size. */
  readonly rowsPerMicrobatch: number;
}

export async function benchLearner(context: BenchContext): Promise<BenchResult> {
  const common = {
    model: starterModel,
    prompts: starterPrompts(),
    backend: "tensorflow",
    rowsPerMicrobatch: 64,
    trained: "full",
  } as const;
  const small = { ...common, kind: "shared", groups: 8, groupSize: 8 } as const;
  const large = { ...common, kind: "shared", groups: 64, groupSize: 8 } as const;
  const unrelated = { ...common, kind: "unrelated", groups: 64, groupSize: 1 } as const;
  const everyKind: LearnerCase[] = [
    { ...small, threads: 1 },
    { ...unrelated, threads: 1 },
    { ...small, threads: 1, trained: "LoRA" },
    { ...small, threads: 1, backend: "wasm" },
  ];
  const others: LearnerCase[] = [
    { ...large, threads: 1 },
    { ...small, threads: 2 },
    { ...large, threads: 2 },
    { ...unrelated, threads: 2 },
    { ...large, threads: 2, trained: "LoRA" },
  ];
  const cases = context.quick ? everyKind : [...everyKind, ...others];
  return resultOf(context, "Learner step, starter model", cases, context.quick ? 1 : 9, [
    "wasm: our backend where the native library is not there; it has one thread.",
  ]);
}

/** What the cases of a real model on questions of GSM8K share. */
const realModelCase = (model: string, { gsm8k, quick }: BenchContext) =>
  ({
    model,
    prompts: gsm8kPrompts(model, gsm8k),
    kind: "shared",
    groupSize: quick ? 2 : 8,
    threads: 2,
    backend: "tensorflow",
    rowsPerMicrobatch: 8,
  }) as const;

export async function benchLearner135m(context: BenchContext): Promise<BenchResult | Skipped> {
  const { smollm2, gsm8k, quick } = context;
  if (smollm2 === null) return noSmollm2;
  const common = { ...realModelCase(smollm2, context), groups: quick ? 1 : 2 };
  const cases: LearnerCase[] = [
    { ...common, trained: "full" },
    { ...common, trained: "LoRA" },
  ];
  return resultOf(context, "Learner step, SmolLM2-135M", cases, quick ? 1 : 3, [
    `Prompts: ${gsm8k === null ? "the starter's problems (GSM8K is not there)" : "questions of GSM8K's training set"}.`,
  ]);
}

export async function benchLearner05b(context: BenchContext): Promise<BenchResult | Skipped> {
  const { qwen, quick } = context;
  if (qwen === null) return noQwen;
  const common = { ...realModelCase(qwen, context), groups: 1, trained: "LoRA" } as const;
  const cases: LearnerCase[] = [common, { ...common, matmul: "bfloat16" }];
  return resultOf(context, "Learner step, Qwen2.5-Coder-0.5B", cases, quick ? 1 : 3, [
    "The peers compute in float32 in both cases.",
  ]);
}

async function resultOf(
  { python, progress }: BenchContext,
  title: string,
  wanted: readonly LearnerCase[],
  repeats: number,
  notes: readonly string[],
): Promise<BenchResult> {
  const cases: CaseResult[] = [];
  for (const one of wanted) {
    const { kind, groups, groupSize, threads, trained, backend } = one;
    const rounded = one.matmul === "bfloat16" ? ", ours bfloat16" : "";
    const how = `${trained === "LoRA" ? ", LoRA" : ""}${backend === "wasm" ? ", wasm" : ""}${rounded}`;
    const name = `${kind} prompts, ${groups} × ${groupSize} completions${how}, threads: ${threads}`;
    const { settings, ...measured } = await learnerCase(python, one, repeats);
    cases.push({ name, settings: { kind, groups, groupSize, trained, backend, threads, ...settings }, ...measured });
    progress(name);
  }
  return {
    title,
    unit: "s",
    better: "lower",
    peerNames: [PADDED, PACKED],
    cases,
    notes: [
      `One GRPO iteration on the model's own completions (to the stop token, at most ${MAX_NEW_TOKENS} tokens): advantages, forward, backward, clipping, AdamW. The rate is near 0, so that every repeat is the same step.`,
      "torch, padded: a row for each completion, logits of all completion places (as TRL). torch, packed: a row for each group, prompt once, logits of completion tokens only, a mask keeps completions apart.",
      "unrelated: one completion a prompt, so every advantage is 0 and all sides train on an entropy bonus (without it we would skip such groups). LoRA: r 16 on every linear layer, all sides from the same adapters.",
      "Before anything is timed, the gradient norms of all sides at the first step must agree to 0.1 % (wasm: 0.5 %, bfloat16: 3 %).",
      ...notes,
    ],
  };
}

/** Seconds of one step; processes of its own, so that no case pays for the memory of another. */
export async function learnerCase(
  python: string | null,
  one: LearnerCase,
  repeats: number,
  packedPeer = true,
): Promise<Omit<CaseResult, "name">> {
  const { model, threads, trained } = one;
  const [ours, torch] = [Side.ours(threads), python === null ? null : Side.torch(python, threads)];
  let result: Omit<CaseResult, "name"> | undefined;
  await closing([ours, torch], () =>
    withAdapter(trained === "LoRA" ? model : null, async (adapter) => {
      const request = await requestOf(ours, one, adapter);
      const norms: Record<string, number> = {};
      const seconds = (name: string, side: Side, layout: LearnerRequest["layout"]) => async (repeat: number) => {
        const reply = await side.ask<LearnerReply>({ ...request, layout });
        if (repeat < 0) norms[name] = reply.gradNorm;
        return reply.seconds;
      };
      const peers: Record<string, Measure> = {};
      if (torch !== null) peers[PADDED] = seconds(PADDED, torch, "padded");
      if (torch !== null && packedPeer) peers[PACKED] = seconds(PACKED, torch, "packed");
      const measured = await interleave(seconds("ours", ours, "packed"), peers, repeats);
      const [low, high] = [Math.min(...Object.values(norms)), Math.max(...Object.values(norms))];
      const gap = MAX_GRADIENT_GAP[one.matmul === "bfloat16" ? "bfloat16" : one.backend];
      if (high - low > gap * high)
        throw new Error(`gradient norms differ, the sides do not compute the same step: ${JSON.stringify(norms)}`);
      const gradNorms = Object.entries(norms).map(([who, norm]) => [`gradNorm ${who}`, norm] as const);
      const promptTokens = request.groups.reduce((sum, { promptIds }) => sum + promptIds.length, 0);
      const completionTokens = request.groups.flatMap(({ completions }) => completions).flat().length;
      result = { settings: { promptTokens, completionTokens, ...Object.fromEntries(gradNorms) }, ...measured };
    }),
  );
  return result!;
}

/** Completions sampled by our engine; every second one of a group earns the reward. */
async function requestOf(ours: Side, c: LearnerCase, adapter: string | null): Promise<Omit<LearnerRequest, "layout">> {
  const { model, groups: count, groupSize, backend, rowsPerMicrobatch, matmul = "float32" } = c;
  const { prompts, stopIds, padId } = c.prompts;
  const asked = prompts(0, count);
  const { completions, logprobs } = await ours.ask<RolloutReply>({
    op: "rollout",
    model,
    prompts: asked,
    groupSize,
    rows: 64,
    maxNewTokens: MAX_NEW_TOKENS,
    temperature: 1,
    stopIds,
    padId,
    seed: 1,
  } satisfies RolloutRequest);
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
  const entropyCoef = groupSize === 1 ? 0.01 : 0;
  return { op: "learner", model, adapter, groups, entropyCoef, backend, matmul, rowsPerMicrobatch, padId };
}
