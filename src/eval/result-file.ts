/**
 * The JSON file that `eval` writes, as `compare` reads it: what was asked and how, and which questions were answered rightly.
 * Knows the file; knows no statistics.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { z } from "zod";
import { UserError, messageOf } from "../errors.js";

export const modes = ["sampled", "greedy"] as const;
export type Mode = (typeof modes)[number];

const modeSchema = z.object({
  /** [n] 1 for each question answered rightly, else 0, in the order of the questions. */
  correct: z.array(z.literal([0, 1])),
});

const resultSchema = z.object({
  model: z.string(),
  data: z.string(),
  n: z.int().positive(),
  /** Of questions and right answers, in order. */
  questions_sha256: z.string(),
  /** Of system message and suffix: the settings, not the token ids, so that models with different tokenizers compare. */
  prompt_sha256: z.string(),
  temperature: z.number(),
  max_new_tokens: z.int(),
  /** Of the sampling noise. */
  seed: z.int(),
  /** Of the training run the model is a checkpoint of; null for any other model. */
  train_seed: z.int().nullable(),
  weights_sha256: z.string(),
  sampled: modeSchema,
  greedy: modeSchema,
});

export interface EvalResult extends z.infer<typeof resultSchema> {
  readonly file: string;
}

/** sha256 of values in their order, in hex. */
export function sha256OfList(list: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(list)).digest("hex");
}

/** Seed of the run that a checkpoint (`RUN/checkpoints/step-N`) belongs to; null for any other model folder. */
export function trainSeedOf(modelFolder: string): number | null {
  const config = join(modelFolder, "../../config.json");
  if (basename(dirname(resolve(modelFolder))) !== "checkpoints" || !existsSync(config)) return null;
  const { seed } = JSON.parse(readFileSync(config, "utf8")) as { seed?: unknown };
  return typeof seed === "number" ? seed : null;
}

/** @throws UserError when the file is missing, empty, or not what `eval` writes */
export function readEvalResult(file: string): EvalResult {
  if (!existsSync(file) || statSync(file).isDirectory())
    throw new UserError(`${file}: expected a result file of eval, found no such file. Check the path.`);
  const text = readFileSync(file, "utf8");
  if (text.trim() === "")
    throw new UserError(`${file}: expected a result file of eval, found an empty file. Run eval again.`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${file}: expected a result file of eval, found no JSON (${messageOf(error)}).`);
  }
  const parsed = resultSchema.safeParse(json);
  if (!parsed.success)
    throw new UserError(
      `${file}: expected a result file of eval; run eval again if it is from an older version.\n${z.prettifyError(parsed.error)}`,
    );
  for (const mode of modes)
    if (parsed.data[mode].correct.length !== parsed.data.n)
      throw new UserError(
        `${file}: expected ${parsed.data.n} answers (n) in ${mode}.correct, found ${parsed.data[mode].correct.length}. Run eval again.`,
      );
  return { file, ...parsed.data };
}

/** What must be equal for question i of one file to be question i of another, and asked in the same way. */
const sameness = [
  ["n", "the number of questions"],
  ["questions_sha256", "the questions"],
  ["prompt_sha256", "the prompts (--system or --prompt-suffix)"],
  ["max_new_tokens", "--max-new-tokens"],
  ["temperature", "--temperature"],
] as const;

/** @throws UserError naming two files and everything in which they differ */
export function refuseDifferent(results: readonly EvalResult[]): void {
  const first = results[0]!;
  for (const other of results.slice(1)) {
    const differences = sameness
      .filter(([key]) => first[key] !== other[key])
      .map(([key, what]) => `${what} (${brief(first[key])} and ${brief(other[key])})`);
    if (differences.length > 0)
      throw new UserError(
        `${first.file} and ${other.file}: expected results of the same questions, asked alike; found different: ${differences.join(", ")}. Evaluate both in the same way.`,
      );
  }
}

/** Numbers whole, hashes by their first digits. */
function brief(value: string | number): string {
  return String(value).slice(0, 12);
}

/**
 * Two lists are compared seed by seed: pair i must come from one training seed, where the files know it.
 * @throws UserError for lists of different length, fewer than two seeds, a seed twice, or a pair of two seeds
 */
export function refuseUnpaired(a: readonly EvalResult[], b: readonly EvalResult[]): void {
  if (a.length !== b.length) {
    const seeds = (side: readonly EvalResult[]): string => side.map((r) => r.train_seed ?? "?").join(", ");
    throw new UserError(
      `--a and --b: expected the same seeds on both sides, found ${a.length} files (training seeds ${seeds(a)}) and ${b.length} (${seeds(b)}): a seed is missing. Add its file, or leave its partner out.`,
    );
  }
  if (a.length < 2)
    throw new UserError(
      `--a and --b: expected at least 2 seeds on each side, found ${a.length}. One seed says nothing of an algorithm; for two checkpoints use "compare A B".`,
    );
  for (const [side, results] of Object.entries({ a, b }))
    for (const [i, result] of results.entries()) {
      const twin = results
        .slice(0, i)
        .find(
          (other) =>
            other.weights_sha256 === result.weights_sha256 ||
            (other.train_seed !== null && other.train_seed === result.train_seed),
        );
      if (twin !== undefined)
        throw new UserError(
          `--${side}: expected every seed once; ${twin.file} and ${result.file} are of the same ${twin.weights_sha256 === result.weights_sha256 ? "weights" : `training seed ${result.train_seed}`}. Remove one.`,
        );
    }
  for (const [i, result] of a.entries()) {
    const partner = b[i]!;
    if (result.train_seed !== null && partner.train_seed !== null && result.train_seed !== partner.train_seed)
      throw new UserError(
        `--a and --b: expected the same seeds in the same order; pair ${i + 1} is ${result.file} (training seed ${result.train_seed}) and ${partner.file} (training seed ${partner.train_seed}). Reorder them.`,
      );
  }
}
