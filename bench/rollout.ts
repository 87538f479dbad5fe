/** (a) Rollout tokens/s, starter model: our engine against transformers' generate. */
import type { BenchContext, BenchResult, CaseResult } from "./bench.js";
import { interleave, mean, type Measure } from "./measure.js";
import { starterModel, starterPrompts, type Prompts } from "./models.js";
import type { RolloutReply, RolloutRequest } from "./requests.js";
import { Side, closing } from "./side.js";

/**
 * Rows in flight (generate: batch size) and completions asked for: one full batch, and a stream of
 * four.
 */
const loads = [
  { rows: 1, completions: 8 },
  { rows: 16, completions: 64 },
  { rows: 64, completions: 64 },
  { rows: 64, completions: 256 },
  { rows: 256, completions: 256 },
  { rows: 256, completions: 1_024 },
];
/** Two actors get only the loads that a run would give to two. */
const loadsOfTwo = [
  { rows: 64, completions: 256 },
  { rows: 256, completions: 1_024 },
];
const MAX_NEW_TOKENS = 64;
const GENERATE = "transformers generate";

export async function benchRollout({ python, quick, progress }: BenchContext): Promise<BenchResult> {
  const prompts = starterPrompts();
  const cases: CaseResult[] = [];
  for (const { actors, threads } of [
    { actors: 1, threads: 1 },
    { actors: 1, threads: 2 },
    { actors: 2, threads: 2 },
  ]) {
    const ours = Array.from({ length: actors }, () => Side.ours(threads / actors));
    const torch = python === null ? null : Side.torch(python, threads);
    await closing([...ours, torch], async () => {
      for (const lengths of ["real", "fixed"] as const) {
        for (const load of quick ? loads.slice(1, 2) : actors === 1 ? loads : loadsOfTwo) {
          const measured = await rolloutCase({
            ours: ours.map((side) => ({ side, model: starterModel })),
            peers: torch === null ? {} : { [GENERATE]: { side: torch, model: starterModel } },
            prompts,
            lengths,
            maxNewTokens: MAX_NEW_TOKENS,
            ...load,
            repeats: quick ? 1 : 5,
          });
          const who = actors === 1 ? "" : `${actors} actors, `;
          const name = `${lengths} lengths, B = ${load.rows}, ${load.completions} completions, ${who}threads: ${threads}`;
          cases.push({ name, ...measured, settings: { actors, threads, ...measured.settings } });
          progress(name);
        }
      }
    });
  }
  return {
    title: "Rollout, starter model",
    unit: "tokens/s",
    better: "higher",
    peerNames: [GENERATE],
    cases,
    notes: [
      `real lengths: up to ${MAX_NEW_TOKENS} new tokens, each completion counted up to and including its stop token; fixed: no stop, ${MAX_NEW_TOKENS} new tokens.`,
      "B: completions in flight (generate: batch size, batches one after the other); groups of 8 share a prompt (B = 1: no groups). Two actors: half of the prompts, B / 2 and one thread each.",
    ],
  };
}

/** A process, and the file or folder of the model as it wants it. */
export interface ModelAt {
  readonly side: Side;
  readonly model: string;
}

export interface RolloutCase {
  /** Several actors share prompts and rows equally. */
  readonly ours: readonly ModelAt[];
  readonly peers: Readonly<Record<string, ModelAt>>;
  readonly prompts: Prompts;
  readonly lengths: "real" | "fixed";
  readonly rows: number;
  readonly completions: number;
  readonly maxNewTokens: number;
  readonly repeats: number;
  /** Ours; the peers compute in float32. */
  readonly dtype?: "float32" | "int8";
  /** Tokens of the untimed run: a large model is warm after a few. */
  readonly warmUpTokens?: number;
}

/**
 * Other prompts in each repeat, the same for all sides; groups of 8, or of 1 where only one
 * completion is in flight.
 */
export async function rolloutCase(c: RolloutCase): Promise<Omit<CaseResult, "name">> {
  const { rows, completions, lengths } = c;
  const groupSize = Math.min(8, rows);
  const rate =
    (sides: readonly ModelAt[], lengthsSeen: number[]): Measure =>
    async (repeat) => {
      const maxNewTokens = repeat < 0 ? (c.warmUpTokens ?? c.maxNewTokens) : c.maxNewTokens;
      const prompts = c.prompts.prompts((repeat + 1) * 1_000, completions / groupSize);
      const share = prompts.length / sides.length;
      const replies = await Promise.all(
        sides.map(({ side, model }, s) =>
          side.ask<RolloutReply>({
            op: "rollout",
            model,
            prompts: prompts.slice(s * share, (s + 1) * share),
            groupSize,
            rows: rows / sides.length,
            maxNewTokens,
            temperature: 1,
            stopIds: lengths === "real" ? c.prompts.stopIds : [],
            padId: c.prompts.padId,
            seed: repeat + 1,
            ...(c.dtype !== undefined && { dtype: c.dtype }),
          } satisfies RolloutRequest),
        ),
      );
      const tokens = replies.reduce((sum, reply) => sum + reply.tokens, 0);
      if (lengths === "fixed" && tokens !== completions * maxNewTokens)
        throw new Error(`${tokens} tokens, expected ${completions * maxNewTokens}`);
      if (repeat >= 0) lengthsSeen.push(tokens / completions);
      return tokens / Math.max(...replies.map(({ seconds }) => seconds));
    };
  const lengthsOurs: number[] = [];
  const peers = Object.entries(c.peers).map(([name, at]) => ({ name, at, lengths: [] as number[] }));
  const measured = await interleave(
    rate(c.ours, lengthsOurs),
    Object.fromEntries(peers.map(({ name, at, lengths }) => [name, rate([at], lengths)])),
    c.repeats,
  );
  // All sides sample one distribution, so their completions must be about equally long.
  const meanLengths = peers.map(({ name, lengths }) => [`meanLength ${name}`, mean(lengths)] as const);
  return {
    settings: {
      lengths,
      rows,
      completions,
      maxNewTokens: c.maxNewTokens,
      "meanLength ours": mean(lengthsOurs),
      ...Object.fromEntries(meanLengths),
    },
    ...measured,
  };
}
