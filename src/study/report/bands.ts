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

/** A curve per algorithm, of the points at which all its runs have a value; none without any. */
export type Curves = Readonly<Record<string, readonly BandPoint[]>>;

export const metricCurves = (runs: readonly ReportedRun[], metric: string): Curves =>
  byAlgorithm(runs, (run) => run.metrics.map((line) => [line.iteration!, line[metric]]));

export const validationCurves = (runs: readonly ReportedRun[], mode: Mode): Curves =>
  byAlgorithm(runs, (run) => run.validation.map((line) => [line.iteration, line[mode]?.accuracy]));

type ValuesOf = (run: ReportedRun) => [iteration: number, value: number | undefined][];

function byAlgorithm(runs: readonly ReportedRun[], valuesOf: ValuesOf): Curves {
  const curves = algorithmsOf(runs).map((algorithm) => {
    const own = runs.filter((run) => run.algorithm === algorithm);
    return [algorithm, curve(own, valuesOf)] as const;
  });
  return Object.fromEntries(curves.filter(([, { length }]) => length > 0));
}

function curve(runs: readonly ReportedRun[], valuesOf: ValuesOf): BandPoint[] {
  const spent = runs.map(({ metrics }) => spentBy(metrics));
  const all = runs
    .map(
      (run) =>
        new Map(valuesOf(run).flatMap(([iteration, value]) => (value === undefined ? [] : [[iteration, value]]))),
    )
    .filter((values) => values.size > 0);
  const shared = [...(all[0]?.keys() ?? [])].filter((iteration) => all.every((values) => values.has(iteration)));
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

export const algorithmsOf = (runs: readonly ReportedRun[]): string[] => [
  ...new Set(runs.map(({ algorithm }) => algorithm)),
];
