/** The learning curve of a run (held-out accuracy by what was spent) and its value at a budget. */
import { UserError } from "../errors.js";
import type { Mode } from "../eval/folder/names.js";
import { type RunFiles, readRunFiles } from "../run/records.js";

/** What algorithms are given equally much of, beside rollouts. */
export const budgets = ["tokens", "wall_time"] as const;
export type Budget = (typeof budgets)[number];

export interface Spent {
  /** Completion tokens sampled for training so far; null in files that do not say. */
  readonly tokens: number | null;
  /** Seconds of training iterations so far; evaluation and checkpoints are not in it. */
  readonly wall_time: number;
}

export interface CurvePoint extends Spent {
  readonly iteration: number;
  readonly validation: { readonly [mode in Mode]?: { readonly accuracy: number; readonly n: number } | undefined };
}

/** What was spent until the end of each iteration; 0 is the time before training. */
export function spentBy(metrics: RunFiles["metrics"]): Map<number, Spent> {
  const counted = metrics.every((line) => line.tokens !== undefined);
  let [tokens, wallTime] = [0, 0];
  const spent = new Map<number, Spent>([[0, { tokens: counted ? 0 : null, wall_time: 0 }]]);
  for (const line of metrics) {
    tokens += line.tokens ?? 0;
    wallTime += line.iteration_seconds ?? 0;
    spent.set(line.iteration!, { tokens: counted ? tokens : null, wall_time: wallTime });
  }
  return spent;
}

/** Points from iteration 0 to the last. @throws UserError for a run unreadable or ended early */
export function readCurve(runDir: string): CurvePoint[] {
  const { metrics, summary, validation } = readRunFiles(runDir);
  if (summary?.validation.before === undefined || summary.validation.after === undefined)
    throw new UserError(
      `${runDir}: expected a finished run, found one that ${summary === null ? "has no summary.json" : `was stopped at iteration ${summary.iterations}`}. Resume it.`,
    );
  const spent = spentBy(metrics);
  return validation.map(({ iteration, ...accuracies }) => {
    const at = spent.get(iteration);
    if (at === undefined)
      throw new UserError(`${runDir}: metrics.jsonl has no line of iteration ${iteration}, which was evaluated.`);
    return { iteration, ...at, validation: accuracies };
  });
}

/** Accuracy at a budget, linear between evaluations; null where none was made in this mode. */
export function accuracyAt(curve: readonly CurvePoint[], budget: Budget, at: number, mode: Mode): number | null {
  const points = curve.flatMap((point) => {
    const accuracy = point.validation[mode]?.accuracy;
    const spent = point[budget];
    return accuracy === undefined || spent === null ? [] : [{ spent, accuracy }];
  });
  const next = points.findIndex(({ spent }) => spent >= at);
  if (next === -1) return null;
  const above = points[next]!;
  const below = points[Math.max(0, next - 1)]!;
  if (above.spent === below.spent) return above.accuracy;
  return below.accuracy + ((at - below.spent) / (above.spent - below.spent)) * (above.accuracy - below.accuracy);
}

/**
 * Two algorithms' curves at equal budgets by seed, the smaller of what both runs of a pair had
 * spent; null where a run lacks this mode or budget.
 */
export function matchedAt(
  a: readonly (readonly CurvePoint[])[],
  b: readonly (readonly CurvePoint[])[],
  budget: Budget,
  mode: Mode,
) {
  const totals = [a, b].map((side) => side.map((curve) => curve.at(-1)![budget]));
  if (totals.flat().includes(null)) return null;
  const [ofA, ofB] = totals as [number[], number[]];
  const spent = ofA.map((total, i) => Math.min(total, ofB[i]!));
  const [atA, atB] = [a, b].map((side) => side.map((curve, i) => accuracyAt(curve, budget, spent[i]!, mode)));
  if ([...atA!, ...atB!].includes(null)) return null;
  return { budgets: spent, a: atA as number[], b: atB as number[] };
}
