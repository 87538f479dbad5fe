/**
 * (f) Decoding and training as shares of what this machine can do: matrix products and memory
 * bandwidth, measured in the same run.
 */
import { readModelConfig, type ModelConfig } from "../src/model/config.js";
import { layoutSize, weightLayout } from "../src/model/layout.js";
import type { BenchContext, BenchResult, CaseResult } from "./bench.js";
import { figure } from "./figure.js";
import { learnerCase, PACKED, PADDED } from "./learner.js";
import { converted, median } from "./measure.js";
import { gsm8kPrompts, starterModel, starterPrompts } from "./models.js";
import type { MachineReply, MachineRequest } from "./requests.js";
import { rolloutCase } from "./rollout.js";
import { Side, closing } from "./side.js";

const THREADS = 2;
const GENERATE = "transformers generate";
/**
 * Rows and columns of the product, and float32 values of each vector of the triad: far more than
 * the caches hold.
 */
const MATRIX = 1_024;
const VECTOR = 2 ** 25;

type Limits = Readonly<Record<string, number>>;

export async function benchLimits(context: BenchContext): Promise<BenchResult> {
  const { python, smollm2, gsm8k, quick, progress } = context;
  const { flops, bandwidth } = await measureLimits(context);
  const [peakFlops, peakBandwidth] = [Math.max(...Object.values(flops)), Math.max(...Object.values(bandwidth))];
  progress(`matrix product ${figure(peakFlops / 1e9)} GFLOP/s, triad ${figure(peakBandwidth / 1e9)} GB/s`);

  const cases: CaseResult[] = [];
  const decode = async (model: string, rows: number, length: number): Promise<void> => {
    const [ours, torch] = [Side.ours(THREADS), python === null ? null : Side.torch(python, THREADS)];
    await closing([ours, torch], async () => {
      const prompts = model === starterModel ? starterPrompts() : gsm8kPrompts(model, gsm8k);
      const { settings, ...measured } = await rolloutCase({
        ours: [{ side: ours, model }],
        peers: torch === null ? {} : { [GENERATE]: { side: torch, model } },
        prompts,
        lengths: "fixed",
        rows,
        completions: rows,
        maxNewTokens: length,
        repeats: quick ? 1 : 3,
      });
      const config = readModelConfig(model);
      const name = `decode, ${nameOf(config)}, B = ${rows}`;
      cases.push(
        rows === 1
          ? // One row reads every weight for each token.
            {
              name: `${name}: of bandwidth`,
              settings,
              ...converted(measured, (rate) => (100 * rate * 4 * layoutSize(weightLayout(config))) / peakBandwidth),
            }
          : {
              name: `${name}: of matrix products`,
              settings,
              ...converted(measured, (rate) => (100 * rate * flopsPerToken(config)) / peakFlops),
            },
      );
      progress(cases.at(-1)!.name);
    });
  };
  const train = async (model: string, groups: number): Promise<void> => {
    const config = readModelConfig(model);
    const { settings, ...measured } = await learnerCase(
      python,
      {
        model,
        prompts: model === starterModel ? starterPrompts() : gsm8kPrompts(model, gsm8k),
        kind: "shared",
        groups,
        groupSize: quick ? 2 : 8,
        threads: THREADS,
        trained: "full",
        backend: "tensorflow",
        rowsPerMicrobatch: model === starterModel ? 64 : 8,
      },
      quick ? 1 : 3,
    );
    const { promptTokens, completionTokens } = settings as { promptTokens: number; completionTokens: number };
    // Forward once, backward twice; the head only where a token is predicted.
    const body = flopsPerToken(config) - headFlops(config);
    const work = 3 * (body * (promptTokens + completionTokens) + headFlops(config) * completionTokens);
    cases.push({
      name: `learner, ${nameOf(config)}, ${groups} × ${quick ? 2 : 8}: of matrix products`,
      settings,
      ...converted(measured, (seconds) => (100 * work) / seconds / peakFlops),
    });
    progress(cases.at(-1)!.name);
  };
  await decode(starterModel, 256, quick ? 8 : 64);
  await decode(starterModel, 1, quick ? 8 : 64);
  await train(starterModel, quick ? 8 : 64);
  if (smollm2 !== null) {
    await decode(smollm2, 16, quick ? 4 : 32);
    await decode(smollm2, 1, quick ? 4 : 32);
    await train(smollm2, quick ? 1 : 2);
  }
  const list = (limits: Limits, unit: string): string =>
    Object.entries(limits)
      .map(([name, value]) => `${name} ${figure(value / 1e9)} ${unit}`)
      .join(", ");
  return {
    title: `Share of this machine's limit, ${THREADS} threads`,
    unit: "% of limit",
    better: "higher",
    peerNames: [GENERATE, PADDED, PACKED],
    cases,
    notes: [
      `Matrix product ${MATRIX} × ${MATRIX} × ${MATRIX}, float32: ${list(flops, "GFLOP/s")}. Triad a = b + s c (TensorFlow: a = b + c) over ${(4 * VECTOR) / 2 ** 20} MiB each: ${list(bandwidth, "GB/s")}. The limit is the best of each.`,
      "Work that must be done: 2 operations for each weight and token (embedding excluded, LM head included); training three times that, prompts once a group, LM head on completions only. Neither prompts of a rollout nor attention scores are counted, so the shares are somewhat low. B = 1: every weight is read once for each token.",
    ],
  };
}

const nameOf = (config: ModelConfig): string => `${(layoutSize(weightLayout(config)) / 1e6).toFixed(1)} M parameters`;

const headFlops = ({ hiddenSize, vocabSize }: ModelConfig): number => 2 * hiddenSize * vocabSize;

/** Counts the linear layers and the LM head, which a tied model has too. */
function flopsPerToken(config: ModelConfig): number {
  const outside = weightLayout(config).filter(({ name }) => name.includes("embed_tokens") || name === "lm_head.weight");
  const body = layoutSize(weightLayout(config)) - outside.reduce((sum, { size }) => sum + size, 0);
  return 2 * body + headFlops(config);
}

/** In turns, as all measurements: ours in both runtimes, torch. Operations and bytes a second. */
async function measureLimits({ python, quick }: BenchContext): Promise<{ flops: Limits; bandwidth: Limits }> {
  const [ours, torch] = [Side.ours(THREADS), python === null ? null : Side.torch(python, THREADS)];
  const rates: { flops: Record<string, number[]>; bandwidth: Record<string, number[]> } = { flops: {}, bandwidth: {} };
  const product = (runtime: MachineRequest["runtime"]) =>
    ({ op: "machine", measure: "product", runtime, size: MATRIX }) as const;
  const triad = (runtime: MachineRequest["runtime"]) =>
    ({ op: "machine", measure: "triad", runtime, size: VECTOR }) as const;
  await closing([ours, torch], async () => {
    for (let repeat = -1; repeat < (quick ? 1 : 9); repeat++) {
      const measure = async (side: Side, into: Record<string, number[]>, work: number, request: MachineRequest) => {
        const { seconds } = await side.ask<MachineReply>(request);
        if (repeat >= 0) (into[request.runtime] ??= []).push(work / seconds);
      };
      const flops = 2 * MATRIX ** 3;
      await measure(ours, rates.flops, flops, product("onnxruntime"));
      await measure(ours, rates.flops, flops, product("tensorflow"));
      if (torch !== null) await measure(torch, rates.flops, flops, product("torch"));
      await measure(ours, rates.bandwidth, 12 * VECTOR, triad("tensorflow"));
      if (torch !== null) await measure(torch, rates.bandwidth, 12 * VECTOR, triad("torch"));
    }
  });
  const medians = (all: Record<string, number[]>): Limits =>
    Object.fromEntries(Object.entries(all).map(([name, values]) => [name, median(values)]));
  return { flops: medians(rates.flops), bandwidth: medians(rates.bandwidth) };
}
