/**
 * A whole evaluation folder for reports and tables: metrics.json with the figures of each mode, and
 * the predictions. Knows the files; knows no statistics.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../errors.js";
import { type Prediction, readPredictions } from "./predictions.js";
import { type Mode, modes } from "./names.js";
import { type EvalResult, readEvalResult } from "./read-results.js";

const interval = z.tuple([z.number(), z.number()]);
/** As summary.ts writes it. */
const figuresSchema = z.object({
  accuracy: z.number(),
  ci95: interval,
  n: z.int(),
  format_rate: z.number(),
  truncation_rate: z.number(),
  mean_length: z.number(),
  outcomes: z.record(z.string(), z.int()),
  extractors: z.record(z.string(), z.object({ accuracy: z.number(), ci95: interval })),
  agreement: z.object({ names: z.array(z.string()), same_answer: z.array(z.array(z.number())) }),
  pass_at_k: z.record(z.string(), z.number()).optional(),
  maj_at_k: z.record(z.string(), z.number()).optional(),
});
export type ModeFigures = z.infer<typeof figuresSchema>;

export interface EvalDir {
  readonly dir: string;
  readonly metrics: Omit<EvalResult, Mode> & Partial<Record<Mode, ModeFigures>>;
  readonly predictions: readonly Prediction[];
}

export const isEvalDir = (dir: string): boolean => existsSync(join(dir, "metrics.json"));

/** @throws UserError when a file is missing or not what `eval` writes */
export function readEvalDir(dir: string): EvalDir {
  const { sampled, greedy, ...metrics } = readEvalResult(dir);
  const figures: Partial<Record<Mode, ModeFigures>> = {};
  for (const mode of modes) {
    const given = { sampled, greedy }[mode];
    if (given === undefined) continue;
    const parsed = figuresSchema.safeParse(given);
    if (!parsed.success)
      throw new UserError(
        `${dir}: expected the figures of eval under ${mode}; run eval again.\n${z.prettifyError(parsed.error)}`,
      );
    figures[mode] = parsed.data;
  }
  return { dir, metrics: { ...metrics, ...figures }, predictions: predictionsAt(dir) };
}

/**
 * @param path a predictions.jsonl, or the directory that holds one
 * @throws UserError when there is none, or not what `eval` writes
 */
export function predictionsAt(path: string): Prediction[] {
  return readPredictions(existsSync(path) && statSync(path).isDirectory() ? join(path, "predictions.jsonl") : path);
}
