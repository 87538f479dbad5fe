/**
 * A finished study's results. The primary endpoint: one mode, first prompt, final checkpoints after
 * equally many rollouts. Holm's correction takes all secondary comparisons together: looking at
 * more never changes the verdict.
 */
import { existsSync } from "node:fs";
import { UserError } from "../errors.js";
import {
  type CheckpointComparison,
  type SeedComparison,
  type SeedPairs,
  allPairs,
  compareCheckpoints,
  compareSeeds,
  verdict,
} from "../eval/verdict.js";
import type { Mode } from "../eval/folder/names.js";
import { refuseDifferent } from "../eval/comparable.js";
import { type EvalResult, accuracyOf, readEvalResult } from "../eval/folder/read-results.js";
import { mean, wilsonInterval } from "../math/statistics.js";
import { whole } from "../terminal/format.js";
import { type Budget, type CurvePoint, budgets, matchedAt, readCurve } from "./curve.js";
import { type StudyRecord, evalFile, readStudyRecord, runDirOf } from "./directory.js";

export interface Endpoint {
  readonly prompt: string;
  /** Names of algorithms; differences are b − a. */
  readonly algorithms: readonly [a: string, b: string];
  /** What both had equally much of. */
  readonly matched_by: "rollouts" | Budget;
  /** [seeds] how much: completions, completion tokens or seconds of training. */
  readonly budgets: readonly number[];
  /** Read off the learning curve between two evaluations, not from the final evaluation. */
  readonly interpolated: boolean;
  /** Answers to each question. */
  readonly samples: number;
}

export type AlgorithmComparison = Endpoint & SeedComparison;

export type StudyComparison = ReturnType<typeof compareStudy>;

interface EvaluatedRun {
  readonly algorithm: string;
  readonly seed: number;
  readonly curve: readonly CurvePoint[];
  /** By prompt. */
  readonly results: ReadonlyMap<string, EvalResult>;
}

/** @throws UserError when a part of the study is missing, or evaluations cannot be compared */
export function compareStudy(dir: string) {
  const record = readStudyRecord(dir);
  const { definition } = record;
  const { prompts, modes } = definition.eval;
  refuseIncomplete(dir, record);
  const evaluation = (run: string | null): Map<string, EvalResult> =>
    new Map(prompts.map((prompt) => [prompt, readEvalResult(evalFile(dir, run, prompt, definition))]));
  const baseline = evaluation(null);
  const algorithms = Object.keys(definition.algorithms);
  const runs = algorithms.flatMap((algorithm) =>
    definition.seeds.map((seed): EvaluatedRun => {
      const runDir = runDirOf(dir, algorithm, seed);
      return { algorithm, seed, curve: readCurve(runDir), results: evaluation(runDir) };
    }),
  );
  for (const prompt of prompts)
    refuseDifferent([baseline.get(prompt)!, ...runs.map(({ results }) => results.get(prompt)!)]);
  for (const run of runs) refuseForeign(run);

  const notes: string[] = [];
  const isPrimary = (mode: Mode, prompt: string): boolean => mode === definition.primary && prompt === prompts[0];
  const primary: (Endpoint & SeedPairs)[] = [];
  const secondary: (Endpoint & SeedPairs)[] = [];
  for (const [i, j] of allPairs(algorithms)) {
    const [a, b] = [i, j].map((k) => runs.filter(({ algorithm }) => algorithm === algorithms[k])) as [
      EvaluatedRun[],
      EvaluatedRun[],
    ];
    const pair: Pair = { algorithms: [algorithms[i]!, algorithms[j]!], a, b, configs: record.configs };
    for (const prompt of prompts)
      for (const mode of modes) (isPrimary(mode, prompt) ? primary : secondary).push(byRollouts(pair, prompt, mode));
    for (const budget of budgets)
      for (const mode of modes) {
        const matched = byBudget(pair, budget, mode, prompts[0]!);
        if (typeof matched === "string") notes.push(matched);
        else secondary.push(matched);
      }
  }
  const judged = compareSeeds(primary);
  return {
    version: 1 as const,
    study: definition.name,
    algorithms,
    seeds: definition.seeds,
    endpoint: { mode: definition.primary, prompt: prompts[0]!, matched_by: "rollouts" },
    primary: judged,
    secondary: compareSeeds(secondary),
    evaluations: prompts.flatMap((prompt) => evaluationRows(prompt, baseline, runs, modes)),
    /** The sentences on the primary endpoint. */
    verdict: judged.map(sentence).join(" "),
    /** What could not be compared, and why. */
    notes: [...new Set(notes)],
  };
}

export function sentence(comparison: AlgorithmComparison): string {
  const { mode, n, seeds, matched_by, prompt, budgets: spent, interpolated, samples, algorithms } = comparison;
  const unit = { rollouts: "completions", tokens: "completion tokens", wall_time: "s of training" }[matched_by];
  const budget = `${whole(mean(spent))} ${unit}`;
  const prompted = prompt === "default" ? "" : `, prompt ${prompt}`;
  const times = samples === 1 ? "" : ` × ${samples} samples`;
  const where = interpolated ? `${whole(n)} validation questions, interpolated` : `${whole(n)} questions${times}`;
  return `${mode[0]!.toUpperCase()}${mode.slice(1)} accuracy after ${budget} (${where}${prompted}, ${seeds} seeds): ${verdict(comparison, ...algorithms)}`;
}

interface Pair extends Pick<StudyRecord, "configs"> {
  readonly algorithms: Endpoint["algorithms"];
  /** Both algorithms' runs, by seed. */
  readonly a: readonly EvaluatedRun[];
  readonly b: readonly EvaluatedRun[];
}

function byRollouts({ algorithms, a, b, configs }: Pair, prompt: string, mode: Mode): Endpoint & SeedPairs {
  const rollouts = algorithms.map((name) => configs[name]!.max_steps * configs[name]!.generation_batch_size);
  const of = (runs: readonly EvaluatedRun[]): number[] =>
    runs.map(({ results }) => accuracyOf(results.get(prompt)!, mode));
  const { samples, n } = a[0]!.results.get(prompt)!;
  return {
    prompt,
    algorithms,
    matched_by: "rollouts",
    budgets: a.map(() => Math.max(...rollouts)),
    interpolated: false,
    samples: mode === "greedy" ? 1 : samples,
    mode,
    n,
    a: of(a),
    b: of(b),
  };
}

/** Returns a note when the curves do not allow it. */
function byBudget(
  { algorithms, a, b, configs }: Pair,
  budget: Budget,
  mode: Mode,
  prompt: string,
): (Endpoint & SeedPairs) | string {
  const what = `${mode} accuracy at equal ${budget === "tokens" ? "tokens" : "wall time"} is not compared`;
  if (algorithms.some((name) => configs[name]!.eval_steps === 0))
    return `${what}: without eval_steps there is no learning curve.`;
  const curves = [a, b].map((runs) => runs.map(({ curve }) => curve)) as [CurvePoint[][], CurvePoint[][]];
  if (curves.flat().some((curve) => curve.at(-1)![budget] === null))
    return `${what}: metrics.jsonl of a run does not count tokens.`;
  const matched = matchedAt(...curves, budget, mode);
  if (matched === null) return `${what}: eval.${mode} is false in training.`;
  const n = curves[0][0]!.at(-1)!.validation[mode]!.n;
  return { prompt, algorithms, matched_by: budget, interpolated: true, samples: 1, mode, n, ...matched };
}

function evaluationRows(
  prompt: string,
  baseline: ReadonlyMap<string, EvalResult>,
  runs: readonly EvaluatedRun[],
  modes: readonly Mode[],
) {
  const results = [baseline.get(prompt)!, ...runs.map((run) => run.results.get(prompt)!)];
  const comparisons = compareCheckpoints(
    results,
    runs.map((_, i) => [0, i + 1] as const),
  );
  return results.flatMap((result, i) =>
    modes.map((mode) => {
      const right = result[mode]!.correct.filter((x) => x === 1).length;
      const found = comparisons.find((comparison) => comparison.b === i && comparison.mode === mode);
      return {
        /** Null with its seed for the baseline. */
        algorithm: runs[i - 1]?.algorithm ?? null,
        seed: runs[i - 1]?.seed ?? null,
        prompt,
        mode,
        n: result.n,
        /** Accuracy of the first samples, and Wilson's interval. */
        accuracy: right / result.n,
        ci95: wilsonInterval(right, result.n),
        /** Accuracy of all samples, which the comparison of algorithms takes. */
        accuracy_all_samples: accuracyOf(result, mode),
        /** Against the baseline on the same questions; null for the baseline itself. */
        against_baseline: found === undefined ? null : withoutRepeats(found),
      };
    }),
  );
}

function withoutRepeats({ difference, difference_ci95, only_a, only_b, p, p_holm, detectable }: CheckpointComparison) {
  return { difference, difference_ci95, only_a, only_b, p, p_holm, detectable };
}

/** @throws UserError naming every missing part */
function refuseIncomplete(dir: string, { definition }: StudyRecord): void {
  const { prompts } = definition.eval;
  const runs = definition.seeds.flatMap((seed) =>
    Object.keys(definition.algorithms).map(
      (algorithm) => [runDirOf(dir, algorithm, seed), `${algorithm} seed ${seed}`] as const,
    ),
  );
  const missing = [[null, "the baseline"] as const, ...runs].flatMap(([run, what]) =>
    prompts
      .filter((prompt) => !existsSync(evalFile(dir, run, prompt, definition)))
      .map((prompt) => (prompts.length === 1 ? what : `${what} (${prompt})`)),
  );
  if (missing.length > 0)
    throw new UserError(
      `${dir}: expected an evaluation of every run and of the baseline, missing: ${missing.join(", ")}. Run the study again: it goes on where it stopped.`,
    );
}

/** @throws UserError when an evaluation in a run's directory is of another seed */
function refuseForeign({ algorithm, seed, results }: EvaluatedRun): void {
  for (const { file, train_seed } of results.values())
    if (train_seed !== null && train_seed !== seed)
      throw new UserError(
        `${file}: expected the evaluation of ${algorithm} with training seed ${seed}, found one of seed ${train_seed}. Remove it and run the study again.`,
      );
}
