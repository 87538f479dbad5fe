/**
 * (e) How cost grows with model size, batch, length and number of actors: rollout and learner,
 * beside the peers.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readModelConfig } from "../src/model/config.js";
import { layoutSize, weightLayout } from "../src/model/layout.js";
import type { BenchContext, BenchResult, CaseResult, Curves } from "./bench.js";
import { learnerCase, PADDED } from "./learner.js";
import { converted } from "./measure.js";
import { starterModel, starterPrompts } from "./models.js";
import { writeRandomModel } from "./random-model.js";
import { rolloutCase } from "./rollout.js";
import { Side, closing } from "./side.js";

const GENERATE = "transformers generate";

/** What varies, and at which value. */
type Axis = "size" | "learner size" | "batch" | "length" | "actors";

interface Load {
  readonly model: string;
  readonly actors: number;
  readonly rows: number;
  readonly length: number;
}

export async function benchGrowth(context: BenchContext): Promise<BenchResult> {
  const { smollm2, quick, progress } = context;
  const folder = mkdtempSync(join(tmpdir(), "frl-bench-growth-"));
  try {
    const random = (["10M", "45M"] as const).map((size) => writeRandomModel(join(folder, size), size));
    const models = [
      starterModel,
      ...(quick ? random.slice(0, 1) : [...random, ...(smollm2 === null ? [] : [smollm2])]),
    ];
    const base = { model: starterModel, actors: 1, rows: 64, length: 64 };
    const loads: (Load & { axis: Axis; x: number })[] = [
      ...models.map((model) => ({
        ...base,
        axis: "size" as const,
        x: parametersOf(model) / 1e6,
        model,
        rows: 16,
        length: 32,
      })),
      ...few(quick, [1, 4, 16, 64, 256]).map((rows) => ({ ...base, axis: "batch" as const, x: rows, rows })),
      ...few(quick, [16, 64, 128, 256, 384]).map((length) => ({ ...base, axis: "length" as const, x: length, length })),
      ...[1, 2].map((actors) => ({ ...base, axis: "actors" as const, x: actors, actors, rows: 64 * actors })),
    ];
    const cases: (CaseResult & { axis: Axis; x: number })[] = [];
    // Axes meet in one load, which is measured once.
    const measured = new Map<string, CaseResult>();
    for (const { axis, x, ...load } of loads) {
      const key = JSON.stringify(load);
      if (!measured.has(key)) {
        measured.set(key, await rolloutCost(context, load));
        progress(measured.get(key)!.name);
      }
      cases.push({ axis, x, ...measured.get(key)! });
    }
    for (const model of models) {
      cases.push({ axis: "learner size", x: parametersOf(model) / 1e6, ...(await learnerCost(context, model)) });
      progress(cases.at(-1)!.name);
    }
    const curvesOf = (axis: Axis, title: string, xName: string): Curves => {
      const own = cases.filter((one) => one.axis === axis);
      const peers = [GENERATE, PADDED].filter((name) => own.some(({ peers }) => peers[name] !== undefined));
      return {
        title,
        xName,
        yName: "µs",
        logX: axis !== "actors",
        logY: true,
        lines: [
          { name: "ours", points: own.map(({ x, ours }) => [x, ours.median] as const) },
          ...peers.map((name) => ({ name, points: own.map(({ x, peers }) => [x, peers[name]!.median] as const) })),
        ],
      };
    };
    return {
      title: "Growth of cost",
      unit: "µs a token",
      better: "lower",
      peerNames: [GENERATE, PADDED],
      cases: [...new Map(cases.map((one) => [one.name, one])).values()],
      notes: [
        "Rollout: seconds over new tokens, fixed lengths, groups of 8 (B = 1: none), one thread for each actor, as many for generate. Learner: seconds of a step over the tokens that have to be trained on (each prompt once, and completions), 2 × 8 completions, two threads.",
        "10 M and 45 M parameters: random weights with the starter's tokenizer. 135 M: SmolLM2, where it is there.",
      ],
      curves: [
        curvesOf("size", "rollout, B = 16: µs a token", "million parameters"),
        curvesOf("learner size", "learner: µs a token", "million parameters"),
        curvesOf("batch", "rollout, starter: µs a token", "completions in flight"),
        curvesOf("length", "rollout, starter, B = 64: µs a token", "new tokens"),
        curvesOf("actors", "rollout, starter, B = 64 an actor: µs a token", "actors"),
      ],
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const few = (quick: boolean, values: readonly number[]): readonly number[] => (quick ? values.slice(1, 3) : values);

const parametersOf = (model: string): number => layoutSize(weightLayout(readModelConfig(model)));

const millions = (model: string): string => `${(parametersOf(model) / 1e6).toFixed(1)} M parameters`;

async function rolloutCost({ python, quick }: BenchContext, load: Load): Promise<CaseResult> {
  const { model, actors, rows, length } = load;
  const ours = Array.from({ length: actors }, () => Side.ours(1));
  const torch = python === null ? null : Side.torch(python, actors);
  let result: CaseResult | undefined;
  await closing([...ours, torch], async () => {
    const { settings, ...measured } = await rolloutCase({
      ours: ours.map((side) => ({ side, model })),
      peers: torch === null ? {} : { [GENERATE]: { side: torch, model } },
      prompts: starterPrompts(model),
      lengths: "fixed",
      rows,
      completions: Math.max(rows, model === starterModel ? 16 : 1),
      maxNewTokens: length,
      repeats: quick ? 1 : 3,
    });
    const name = `rollout, ${millions(model)}, B = ${rows}, ${length} new tokens, actors: ${actors}`;
    result = { name, settings, ...converted(measured, (tokensPerSecond) => 1e6 / tokensPerSecond) };
  });
  return result!;
}

async function learnerCost({ python, quick }: BenchContext, model: string): Promise<CaseResult> {
  const { settings, ...measured } = await learnerCase(
    python,
    {
      model,
      prompts: starterPrompts(model),
      kind: "shared",
      groups: 2,
      groupSize: 8,
      threads: 2,
      trained: "full",
      backend: "tensorflow",
      rowsPerMicrobatch: 16,
    },
    quick ? 1 : 3,
    false,
  );
  const tokens = Number(settings["promptTokens"]) + Number(settings["completionTokens"]);
  return {
    name: `learner, ${millions(model)}, 2 × 8 completions`,
    settings,
    ...converted(measured, (seconds) => (1e6 * seconds) / tokens),
  };
}
