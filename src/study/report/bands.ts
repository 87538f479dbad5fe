/** Curves over iterations, tokens and time, with bands over the seeds of an algorithm. */
import type { Mode } from "../../eval/folder/names.js";
import { mean } from "../../math/statistics.js";
import { spentBy } from "../curve.js";
import type { ReportedRun } from "./gather.js";

/** One metric of an algorithm against iterations, tokens or time; over its seeds. */
export interface BandPoint {
  readonly iteration: number;
  /** Means over seeds of what training has spent; tokens are null in files that do not say. */
  readonly tokens: number | null;
  readonly seconds: number;
  readonly mean: number;
  /** Least and greatest over seeds. */
  readonly low: number;
  readonly high: number;
}

/** Points at which every run of the algorithm has a value. */
function curve(runs: readonly ReportedRun[], valuesOf: (run: ReportedRun) => ReadonlyMap<number, number>): BandPoint[] {
  const all = runs.map(valuesOf).filter((values) => values.size > 0);
  if (all.length === 0) return [];
  const spent = runs.map(({ metrics }) => spentBy(metrics));
  const shared = [...all[0]!.keys()].filter((iteration) => all.every((values) => values.has(iteration)));
  return shared
    .sort((a, b) => a - b)
    .map((iteration) => {
      const values = all.map((of) => of.get(iteration)!);
      const at = spent.flatMap((of) => of.get(iteration) ?? []);
      return {
        iteration,
        tokens: at.some(({ tokens }) => tokens === null) ? null : mean(at.map(({ tokens }) => tokens!)),
        seconds: mean(at.map(({ wall_time }) => wall_time)),
        mean: mean(values),
        low: Math.min(...values),
        high: Math.max(...values),
      };
    });
}

/** A curve per algorithm; algorithms without the metric are left out. */
export type Curves = Readonly<Record<string, readonly BandPoint[]>>;

export function metricCurves(runs: readonly ReportedRun[], metric: string): Curves {
  return byAlgorithm(
    runs,
    (run) =>
      new Map(run.metrics.flatMap((line) => (line[metric] === undefined ? [] : [[line.iteration!, line[metric]]]))),
  );
}

export function validationCurves(runs: readonly ReportedRun[], mode: Mode): Curves {
  return byAlgorithm(
    runs,
    (run) =>
      new Map(
        run.validation.flatMap((line) => (line[mode] === undefined ? [] : [[line.iteration, line[mode].accuracy]])),
      ),
  );
}

function byAlgorithm(
  runs: readonly ReportedRun[],
  valuesOf: (run: ReportedRun) => ReadonlyMap<number, number>,
): Curves {
  const curves = algorithmsOf(runs).map(
    (algorithm) =>
      [
        algorithm,
        curve(
          runs.filter((run) => run.algorithm === algorithm),
          valuesOf,
        ),
      ] as const,
  );
  return Object.fromEntries(curves.filter(([, points]) => points.length > 0));
}

export const algorithmsOf = (runs: readonly ReportedRun[]): string[] => [
  ...new Set(runs.map(({ algorithm }) => algorithm)),
];
