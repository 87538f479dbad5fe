/**
 * Reads what a report is made of: a study directory (study.json, baseline, runs, comparison.json) or one run directory.
 * What is missing is left out and named in `missing`; a file that is there but not what it should be is an error.
 * Knows files and their formats; computes nothing.
 */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { z } from "zod";
import { UserError, messageOf } from "../../errors.js";
import { type EvalDir, isEvalDir, readEvalDir } from "../eval-dir.js";

const accuracy = z.object({ accuracy: z.number(), ci95: z.tuple([z.number(), z.number()]), n: z.int() });
const validation = z.object({ sampled: accuracy.optional(), greedy: accuracy.optional() });
const validationLine = validation.extend({ iteration: z.int() });
const metricsLine = z.record(z.string(), z.number());
const summarySchema = z.object({
  validation: z.object({ before: validation.optional(), after: validation.optional() }),
  iterations: z.int(),
  wall_seconds: z.number(),
  train_seconds: z.number(),
  backend: z.string(),
  commit: z.string().nullable(),
  stopped: z.boolean(),
});
/** config.json of a run, as far as a report names its keys; all keys are kept. */
const configSchema = z.looseObject({
  algo: z.string(),
  seed: z.int(),
  max_steps: z.int(),
  generation_batch_size: z.int(),
  model: z.looseObject({ path: z.string() }),
  data: z.looseObject({ train: z.string(), validation: z.string() }),
});

export interface Run {
  readonly name: string;
  readonly dir: string;
  /** The study's name for the algorithm; of a single run its `algo`. */
  readonly algorithm: string;
  readonly config: z.infer<typeof configSchema>;
  readonly metrics: readonly Readonly<Record<string, number>>[];
  /** Held-out accuracy by iteration, before (0) and after included. */
  readonly validation: readonly z.infer<typeof validationLine>[];
  /** Null while it runs, or when it was killed. */
  readonly summary: z.infer<typeof summarySchema> | null;
  /** One per prompt. */
  readonly evals: readonly EvalDir[];
}

const setting = z.object({ key: z.string(), values: z.record(z.string(), z.unknown()) });
const studySchema = z.looseObject({
  definition: z.looseObject({
    name: z.string(),
    algorithms: z.record(z.string(), z.unknown()),
    seeds: z.array(z.int()),
    eval: z.looseObject({ prompts: z.array(z.string()) }),
    primary: z.enum(["sampled", "greedy"]),
  }),
  differences: z.array(setting),
  own: z.array(setting),
  commit: z.string().nullable(),
  uncommitted_changes: z.boolean().nullable().optional(),
  machine: z.looseObject({}),
});
export type StudyRecord = z.infer<typeof studySchema>;

const interval = z.tuple([z.number(), z.number()]);
/** Of comparison.json, which study/comparison.ts describes. */
const difference = z.object({
  mode: z.string(),
  prompt: z.string(),
  algorithms: z.tuple([z.string(), z.string()]),
  matched_by: z.enum(["rollouts", "tokens", "wall_time"]),
  budgets: z.array(z.number()),
  interpolated: z.boolean(),
  seeds: z.int(),
  difference: z.number(),
  difference_ci95: interval,
  p_holm: z.number(),
  detectable: z.number(),
});
export type Difference = z.infer<typeof difference>;
const comparisonSchema = z.object({
  verdict: z.string(),
  primary: z.array(difference),
  secondary: z.array(difference),
  evaluations: z.array(
    z.object({
      algorithm: z.string().nullable(),
      seed: z.int().nullable(),
      prompt: z.string(),
      mode: z.string(),
      against_baseline: z.object({ difference: z.number(), difference_ci95: interval, p_holm: z.number() }).nullable(),
    }),
  ),
  notes: z.array(z.string()),
});
export type Comparison = z.infer<typeof comparisonSchema>;

export interface Gathered {
  readonly dir: string;
  /** Null for a single run. */
  readonly study: StudyRecord | null;
  /** The model before training, one per prompt. */
  readonly baseline: readonly EvalDir[];
  readonly runs: readonly Run[];
  /** comparison.json of a study. */
  readonly comparison: Comparison | null;
  /** What a whole directory would have held. */
  readonly missing: readonly string[];
}

/** @throws UserError when the directory is neither, or one of its files is damaged */
export function gather(given: string): Gathered {
  const dir = resolve(given);
  if (existsSync(join(dir, "study.json"))) return gatherStudy(dir);
  if (existsSync(join(dir, "config.json"))) {
    const run = readRun(dir, basename(dir), null);
    return { dir, study: null, baseline: [], runs: [run], comparison: null, missing: missingOf(run) };
  }
  throw new UserError(
    `${given}: expected a study directory (study.json) or a run directory (config.json), found neither. Check the path.`,
  );
}

function gatherStudy(dir: string): Gathered {
  const study = readJson(join(dir, "study.json"), studySchema);
  const { algorithms, seeds } = study.definition;
  const missing: string[] = [];
  const runs = Object.keys(algorithms).flatMap((algorithm) =>
    seeds.flatMap((seed) => {
      const name = `${algorithm}-seed${seed}`;
      if (existsSync(join(dir, name, "config.json"))) return [readRun(join(dir, name), name, algorithm)];
      missing.push(`${name}: not begun`);
      return [];
    }),
  );
  const baseline = readEvals(join(dir, "baseline"));
  if (baseline.length === 0) missing.push("baseline: not evaluated");
  const comparison = join(dir, "comparison.json");
  if (!existsSync(comparison)) missing.push("comparison.json: no verdict yet");
  return {
    dir,
    study,
    baseline,
    runs,
    comparison: existsSync(comparison) ? readJson(comparison, comparisonSchema) : null,
    missing: [...missing, ...runs.flatMap(missingOf)],
  };
}

function missingOf({ name, summary, evals }: Run): string[] {
  const unfinished =
    summary === null ? [`${name}: training has not ended`] : summary.stopped ? [`${name}: stopped early`] : [];
  return [...unfinished, ...(evals.length === 0 ? [`${name}: not evaluated (no eval/ in it)`] : [])];
}

function readRun(dir: string, name: string, algorithm: string | null): Run {
  const config = readJson(join(dir, "config.json"), configSchema);
  const summaryFile = join(dir, "summary.json");
  const summary = existsSync(summaryFile) ? readJson(summaryFile, summarySchema) : null;
  const { before, after } = summary?.validation ?? {};
  return {
    name,
    dir,
    algorithm: algorithm ?? config.algo,
    config,
    metrics: readLines(join(dir, "metrics.jsonl"), metricsLine),
    validation: [
      ...(before === undefined ? [] : [{ iteration: 0, ...before }]),
      ...readLines(join(dir, "validation.jsonl"), validationLine),
      ...(after === undefined ? [] : [{ iteration: summary!.iterations, ...after }]),
    ],
    summary,
    evals: readEvals(join(dir, "eval")),
  };
}

/** An evaluation, or one per prompt in folders of their own. */
function readEvals(dir: string): EvalDir[] {
  if (!existsSync(dir)) return [];
  if (isEvalDir(dir)) return [readEvalDir(dir)];
  const folders = readdirSync(dir)
    .toSorted()
    .map((name) => join(dir, name));
  return folders.filter(isEvalDir).map(readEvalDir);
}

function readJson<T>(file: string, schema: z.ZodType<T>): T {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UserError(`${file}: expected JSON, found none that can be read (${messageOf(error)}).`);
  }
  return checked(json, schema, file);
}

/** Whole lines of a file that may still be written to; none when it is missing. NaN is written as null: such values are left out. */
function readLines<T>(file: string, schema: z.ZodType<T>): T[] {
  if (!existsSync(file)) return [];
  const whole = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return whole.map((line, i) => {
    try {
      const json: unknown = JSON.parse(line, (_key, value: unknown) => (value === null ? undefined : value));
      return checked(json, schema, `${file}:${i + 1}`);
    } catch (error) {
      if (error instanceof UserError) throw error;
      throw new UserError(`${file}:${i + 1}: expected JSON (${messageOf(error)}).`);
    }
  });
}

function checked<T>(json: unknown, schema: z.ZodType<T>, where: string): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new UserError(`${where}: expected another content.\n${z.prettifyError(parsed.error)}`);
}
