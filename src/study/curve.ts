/**
 * The learning curve of a run (held-out accuracy against what was spent) and its value at a budget.
 * Reads metrics.jsonl, validation.jsonl and summary.json of a run directory; knows no other run.
 */
import { UserError } from "../errors.js";
import type { Mode } from "../eval/folder/result-file.js";
import type { Validation } from "../protocol/progress.js";
import { readMetrics, readSummary, readValidation } from "../run/read.js";

/** What algorithms are given equally much of, beside rollouts. */
export const budgets = ["tokens", "wall_time"] as const;
export type Budget = (typeof budgets)[number];

export interface CurvePoint {
  readonly iteration: number;
  /** Completion tokens sampled for training so far. */
  readonly tokens: number;
  /** Seconds of training iterations so far; evaluation and checkpoints are not in it. */
  readonly wall_time: number;
  readonly validation: Validation;
}

/**
 * The points of a finished run, from iteration 0 (before training) to the last.
 * @throws UserError for files that cannot be read, or a run that ended early
 */
export function readCurve(runDir: string): CurvePoint[] {
  const summary = readSummary(runDir);
  const { before, after } = summary.validation;
  if (before === undefined || after === undefined)
    throw new UserError(
      `${runDir}: expected a finished run, found one that was stopped at iteration ${summary.iterations}. Resume it.`,
    );
  const spent = new Map([[0, { tokens: 0, wall_time: 0 }]]);
  let [tokens, wallTime] = [0, 0];
  for (const line of readMetrics(runDir)) {
    tokens += Math.round(line.tokens_per_second! * line.iteration_seconds!);
    wallTime += line.iteration_seconds!;
    spent.set(line.iteration!, { tokens, wall_time: wallTime });
  }
  return [
    { iteration: 0, validation: before },
    ...readValidation(runDir).map(({ iteration, ...validation }) => ({ iteration, validation })),
    { iteration: summary.iterations, validation: after },
  ].map(({ iteration, validation }) => {
    const at = spent.get(iteration);
    if (at === undefined)
      throw new UserError(`${runDir}: metrics.jsonl has no line of iteration ${iteration}, which was evaluated.`);
    return { iteration, ...at, validation };
  });
}

/**
 * Accuracy at a budget, on the straight line between the evaluations before and after it.
 * @param at between 0 and the run's whole budget
 * @returns null where the run was not evaluated in this mode
 */
export function accuracyAt(curve: readonly CurvePoint[], budget: Budget, at: number, mode: Mode): number | null {
  const points = curve.flatMap((point) => {
    const accuracy = point.validation[mode]?.accuracy;
    return accuracy === undefined ? [] : [{ spent: point[budget], accuracy }];
  });
  const next = points.findIndex(({ spent }) => spent >= at);
  if (next === -1) return null;
  const above = points[next]!;
  const below = points[Math.max(0, next - 1)]!;
  if (above.spent === below.spent) return above.accuracy;
  return below.accuracy + ((at - below.spent) / (above.spent - below.spent)) * (above.accuracy - below.accuracy);
}

export interface Matched {
  /** [seeds] what both runs of a pair had spent: the smaller of their two totals. */
  readonly budgets: readonly number[];
  readonly a: readonly number[];
  readonly b: readonly number[];
}

/**
 * Two algorithms at equal budgets, seed by seed.
 * @param a [seeds] curves of one, b of the other, in the same order
 * @returns null where some run was not evaluated in this mode
 */
export function matchedAt(
  a: readonly (readonly CurvePoint[])[],
  b: readonly (readonly CurvePoint[])[],
  budget: Budget,
  mode: Mode,
): Matched | null {
  const spent = a.map((curve, i) => Math.min(curve.at(-1)![budget], b[i]!.at(-1)![budget]));
  const [ofA, ofB] = [a, b].map((side) => side.map((curve, i) => accuracyAt(curve, budget, spent[i]!, mode)));
  if ([...ofA!, ...ofB!].includes(null)) return null;
  return { budgets: spent, a: ofA as number[], b: ofB as number[] };
}
