/**
 * `metrics.json` of an evaluation folder, as `compare` reads it: what was asked and how, and which
 * questions were answered rightly. Knows the file; knows no statistics. Its other figures are
 * written by summary.ts and pass through unread.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { UserError, messageOf } from "../../errors.js";
import { type Mode, modes } from "./names.js";

/** Of the form of metrics.json and predictions.jsonl. */
export const EVAL_VERSION = 1;

const modeSchema = z.looseObject({
  /**
   * [n] 1 for each question answered rightly (of several samples: by the first), else 0, in the
   * order of the questions.
   */
  correct: z.array(z.literal([0, 1])),
  /** Means over the questions by k; absent with one sample. */
  pass_at_k: z.looseObject({ "1": z.number() }).optional(),
});

const resultSchema = z
  .object({
    version: z.literal(EVAL_VERSION),
    model: z.string(),
    data: z.string(),
    n: z.int().positive(),
    /** Name of the prompt, as in prompts.ts. */
    prompt: z.string(),
    /** Of questions and right answers, in order. */
    questions_sha256: z.string(),
    /**
     * Of the prompt's texts: the settings, not the token ids, so that models with different
     * tokenizers compare.
     */
    prompt_sha256: z.string(),
    temperature: z.number(),
    max_new_tokens: z.int(),
    /** Sampled completions of each question. */
    samples: z.int().positive(),
    /** Of the sampling noise. */
    seed: z.int(),
    /** Of the training run the model is a checkpoint of; null for any other model. */
    train_seed: z.int().nullable(),
    weights_sha256: z.string(),
    /**
     * Where and in which numbers it was computed; files from before there was a choice have
     * neither.
     */
    device: z.enum(["cpu", "cuda"]).default("cpu"),
    dtype: z.enum(["float32", "float16"]).default("float32"),
    wall_seconds: z.number(),
    sampled: modeSchema.optional(),
    greedy: modeSchema.optional(),
  })
  .refine((result) => modes.some((mode) => result[mode] !== undefined), "expected sampled, greedy, or both");

export interface EvalResult extends z.infer<typeof resultSchema> {
  /** The evaluation folder, or the file when it was named. */
  readonly file: string;
}

/** The modes that were evaluated. */
export const modesOf = (result: EvalResult): Mode[] => modes.filter((mode) => result[mode] !== undefined);

/**
 * Share of right answers; of several samples to a question all count, since that is the more exact
 * estimate.
 */
export function accuracyOf(result: EvalResult, mode: Mode): number {
  const { pass_at_k, correct } = result[mode]!;
  return pass_at_k?.["1"] ?? correct.filter((right) => right === 1).length / correct.length;
}

/** sha256 of values in their order, in hex. */
export function sha256OfList(list: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(list)).digest("hex");
}

/**
 * @param path the folder that `eval` wrote, or its metrics.json
 * @throws UserError when it is missing, empty, unfinished, or not what `eval` writes
 */
export function readEvalResult(path: string): EvalResult {
  const refuse = (found: string): never => {
    throw new UserError(`${path}: expected a result folder of eval (or its metrics.json), found ${found}`);
  };
  if (!existsSync(path)) return refuse("nothing there. Check the path.");
  const file = statSync(path).isDirectory() ? join(path, "metrics.json") : path;
  if (!existsSync(file))
    return existsSync(join(path, "predictions.jsonl"))
      ? refuse("an unfinished evaluation. Run the same eval again: it goes on where it stopped.")
      : refuse("no metrics.json in it. Check the path.");
  const text = readFileSync(file, "utf8");
  if (text.trim() === "") return refuse("an empty file. Run eval again.");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    return refuse(`no JSON (${messageOf(error)}).`);
  }
  const parsed = resultSchema.safeParse(json);
  if (!parsed.success)
    return refuse(`something else; run eval again if it is from an older version.\n${z.prettifyError(parsed.error)}`);
  for (const mode of modes) {
    const found = parsed.data[mode]?.correct.length ?? parsed.data.n;
    if (found !== parsed.data.n)
      throw new UserError(
        `${path}: expected ${parsed.data.n} answers (n) in ${mode}.correct, found ${found}. Run eval again.`,
      );
  }
  return { file: basename(path) === "metrics.json" ? dirname(path) : path, ...parsed.data };
}

/**
 * What must be equal for question i of one file to be question i of another, and asked in the same
 * way.
 */
const sameness = [
  ["n", "the number of questions"],
  ["questions_sha256", "the questions"],
  ["prompt", "the prompt's name (--prompt)"],
  ["prompt_sha256", "the prompts' texts (--prompt, --system, --prompt-suffix or --fewshot)"],
  ["max_new_tokens", "--max-new-tokens"],
  ["temperature", "--temperature"],
  ["samples", "--samples"],
  ["dtype", "--dtype"],
] as const;

/** @throws UserError naming two files and everything in which they differ */
export function refuseDifferent(results: readonly EvalResult[]): void {
  const first = results[0]!;
  for (const other of results.slice(1)) {
    const differences = sameness
      .filter(([key]) => first[key] !== other[key])
      .map(([key, what]) => `${what} (${brief(first[key])} and ${brief(other[key])})`);
    const asked = [first, other].map((result) => modesOf(result).join(" and "));
    if (asked[0] !== asked[1]) differences.push(`--modes (${asked[0]}; ${asked[1]})`);
    if (differences.length > 0)
      throw new UserError(
        `${first.file} and ${other.file}: expected results of the same questions, asked alike; found different: ${differences.join(", ")}. Evaluate both in the same way.`,
      );
  }
}

/** Hashes by their first digits, all else whole. */
function brief(value: string | number): string {
  return String(value).replace(/^([0-9a-f]{12})[0-9a-f]{52}$/, "$1");
}

/**
 * Two lists are compared seed by seed: pair i must come from one training seed, where the files
 * know it.
 * @throws UserError for lists of different length, fewer than two seeds, a seed twice, or a pair of
 *   two seeds
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
