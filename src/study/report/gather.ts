/** Reads what a report is made of. What is missing is named in `missing`; damaged files throw. */
import { existsSync, readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../../errors.js";
import { type EvalDir, isEvalDir, readEvalDir } from "../../eval/folder/read-results.js";
import { type StudyRecord, comparisonFile, readStudyRecord, runDirOf, studyFile } from "../directory.js";
import { readJson } from "../../files.js";
import { type RunFiles, isRunDir, readRunFiles } from "../../run/records.js";

export interface ReportedRun extends RunFiles {
  readonly name: string;
  readonly dir: string;
  /** The study's name for the algorithm; of a single run its `algo`. */
  readonly algorithm: string;
  /** One per prompt. */
  readonly evals: readonly EvalDir[];
}

const interval = z.tuple([z.number(), z.number()]);
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

export type Gathered = ReturnType<typeof gatherStudy>;

/** @throws UserError when the directory is neither, or one of its files is damaged */
export function gather(given: string): Gathered {
  const dir = resolve(given);
  if (existsSync(studyFile(dir))) return gatherStudy(dir);
  if (isRunDir(dir)) {
    const run = readRun(dir, basename(dir), null);
    return { dir, study: null, baseline: [], runs: [run], comparison: null, missing: missingOf(run) };
  }
  throw new UserError(
    `${given}: expected a study directory (study.json) or a run directory (config.json), found neither. Check the path.`,
  );
}

function gatherStudy(dir: string) {
  const study = readStudyRecord(dir);
  const { algorithms, seeds } = study.definition;
  const missing: string[] = [];
  const runs = Object.keys(algorithms).flatMap((algorithm) =>
    seeds.flatMap((seed) => {
      const run = runDirOf(dir, algorithm, seed);
      const name = basename(run);
      if (isRunDir(run)) return [readRun(run, name, algorithm)];
      missing.push(`${name}: not begun`);
      return [];
    }),
  );
  const baseline = readEvals(join(dir, "baseline"));
  if (baseline.length === 0) missing.push("baseline: not evaluated");
  const comparison = comparisonFile(dir);
  if (!existsSync(comparison)) missing.push("comparison.json: no verdict yet");
  return {
    dir,
    /** Null for a single run. */
    study: study as StudyRecord | null,
    /** The model before training, one per prompt. */
    baseline,
    runs,
    comparison: existsSync(comparison) ? readJson(comparison, comparisonSchema) : null,
    missing: [...missing, ...runs.flatMap(missingOf)],
  };
}

function missingOf({ name, summary, evals }: ReportedRun): string[] {
  const unfinished =
    summary === null ? [`${name}: training has not ended`] : summary.stopped ? [`${name}: stopped early`] : [];
  return [...unfinished, ...(evals.length === 0 ? [`${name}: not evaluated (no eval/ in it)`] : [])];
}

function readRun(dir: string, name: string, algorithm: string | null): ReportedRun {
  const files = readRunFiles(dir);
  return { ...files, name, dir, algorithm: algorithm ?? files.config.algo, evals: readEvals(join(dir, "eval")) };
}

/** An evaluation, or one per prompt in folders of their own. */
function readEvals(dir: string): EvalDir[] {
  if (!existsSync(dir)) return [];
  if (isEvalDir(dir)) return [readEvalDir(dir)];
  const names = readdirSync(dir).toSorted();
  return names.flatMap((name) => (isEvalDir(join(dir, name)) ? [readEvalDir(join(dir, name))] : []));
}
