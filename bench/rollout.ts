/** (a) Rollout tokens/s: our engine against transformers' generate. */
import type { BenchContext, BenchResult, CaseResult } from "./bench.js";
import { interleave, mean } from "./measure.js";
import type { RolloutReply, RolloutRequest } from "./requests.js";
import { Side } from "./side.js";
import { starterModel, starterPrompts } from "./starter-prompts.js";

const NEW_TOKENS = 64;
const FIRST_OF_REPEAT = 1_000;

/** Rows in flight (generate: batch size) and completions asked for: one full batch, and a stream of four. */
const loads = [
  { rows: 1, completions: 8 },
  { rows: 16, completions: 64 },
  { rows: 64, completions: 64 },
  { rows: 64, completions: 256 },
  { rows: 256, completions: 256 },
  { rows: 256, completions: 1_024 },
];

export async function benchRollout({ python, quick, progress }: BenchContext): Promise<BenchResult> {
  const { prompts, stopIds, padId } = starterPrompts();
  const cases: CaseResult[] = [];
  for (const threads of quick ? [1] : [1, 2]) {
    const ours = Side.ours(threads);
    const torch = python === null ? null : Side.torch(python, threads);
    try {
      for (const lengths of ["real", "fixed"] as const) {
        for (const { rows, completions } of quick ? loads.slice(0, 3) : loads) {
          const groupSize = Math.min(8, rows);
          const rate = (side: Side, lengthsSeen: number[]) => async (repeat: number) => {
            const request: RolloutRequest = {
              op: "rollout",
              model: starterModel,
              prompts: prompts((repeat + 1) * FIRST_OF_REPEAT, completions / groupSize),
              groupSize,
              rows,
              maxNewTokens: NEW_TOKENS,
              stopIds: lengths === "real" ? stopIds : [],
              padId,
              seed: repeat + 1,
            };
            const { tokens, seconds } = await side.ask<RolloutReply>(request);
            if (lengths === "fixed" && tokens !== completions * NEW_TOKENS)
              throw new Error(`${tokens} tokens, expected ${completions * NEW_TOKENS}`);
            lengthsSeen.push(tokens / completions);
            return tokens / seconds;
          };
          const name = `${lengths} lengths, B = ${rows}, ${completions} completions, threads: ${threads}`;
          const [lengthOurs, lengthPeer]: [number[], number[]] = [[], []];
          const measured = await interleave(
            rate(ours, lengthOurs),
            torch === null ? null : rate(torch, lengthPeer),
            quick ? 1 : 5,
          );
          // Both sides sample one distribution, so their completions must be about equally long.
          const meanLengths = { meanLengthOurs: mean(lengthOurs), ...(torch && { meanLengthPeer: mean(lengthPeer) }) };
          cases.push({ name, settings: { lengths, rows, completions, threads, ...meanLengths }, ...measured });
          progress(name);
        }
      }
    } finally {
      ours.close();
      torch?.close();
    }
  }
  return {
    title: "Rollout, starter model",
    unit: "tokens/s",
    better: "higher",
    peerName: "transformers generate",
    cases,
    notes: [
      "real lengths: up to 64 new tokens, each completion counted up to and including its stop token; fixed: no stop, 64 new tokens.",
      "B: completions in flight (generate: batch size, batches one after the other); groups of 8 share a prompt (B = 1: no groups).",
    ],
  };
}
