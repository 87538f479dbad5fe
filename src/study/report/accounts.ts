/**
 * What training files say: curves over iterations, tokens and time with bands over seeds, and what
 * runs spent. Knows no layout.
 */
import type { Mode } from "../../eval/folder/names.js";
import type { Run } from "./gather.js";
import { mean, sum } from "../../math/means.js";

/** One metric of an algorithm against iterations, tokens or time; over its seeds. */
export interface CurvePoint {
  readonly iteration: number;
  /** Means over seeds of what was spent until then, training alone. */
  readonly tokens: number;
  readonly seconds: number;
  readonly mean: number;
  /** Least and greatest over seeds. */
  readonly low: number;
  readonly high: number;
}

/** Points at which every run of the algorithm has a value. */
function curve(runs: readonly Run[], valuesOf: (run: Run) => ReadonlyMap<number, number>): CurvePoint[] {
  const all = runs.map(valuesOf).filter((values) => values.size > 0);
  if (all.length === 0) return [];
  const spent = runs.map(spending);
  const shared = [...all[0]!.keys()].filter((iteration) => all.every((values) => values.has(iteration)));
  return shared
    .sort((a, b) => a - b)
    .map((iteration) => {
      const values = all.map((of) => of.get(iteration)!);
      const at = spent.flatMap((of) => of.get(iteration) ?? []);
      return {
        iteration,
        tokens: mean(at.map(({ tokens }) => tokens)),
        seconds: mean(at.map(({ seconds }) => seconds)),
        mean: mean(values),
        low: Math.min(...values),
        high: Math.max(...values),
      };
    });
}

/** Completion tokens and seconds of training iterations up to each iteration. */
function spending({ metrics }: Run): Map<number, { tokens: number; seconds: number }> {
  let [tokens, seconds] = [0, 0];
  const spent = new Map([[0, { tokens, seconds }]]);
  for (const line of metrics) {
    seconds += line.iteration_seconds ?? 0;
    tokens += tokensOf(line);
    spent.set(line.iteration!, { tokens, seconds });
  }
  return spent;
}

const tokensOf = (line: Readonly<Record<string, number>>): number =>
  (line.tokens_per_second ?? 0) * (line.iteration_seconds ?? 0);

/** A curve per algorithm; algorithms without the metric are left out. */
export type Curves = Readonly<Record<string, readonly CurvePoint[]>>;

export function metricCurves(runs: readonly Run[], metric: string): Curves {
  return byAlgorithm(
    runs,
    (run) =>
      new Map(run.metrics.flatMap((line) => (line[metric] === undefined ? [] : [[line.iteration!, line[metric]]]))),
  );
}

export function validationCurves(runs: readonly Run[], mode: Mode): Curves {
  return byAlgorithm(
    runs,
    (run) =>
      new Map(
        run.validation.flatMap((line) => (line[mode] === undefined ? [] : [[line.iteration, line[mode].accuracy]])),
      ),
  );
}

function byAlgorithm(runs: readonly Run[], valuesOf: (run: Run) => ReadonlyMap<number, number>): Curves {
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

export const algorithmsOf = (runs: readonly Run[]): string[] => [...new Set(runs.map(({ algorithm }) => algorithm))];

/** What a run spent, and what went wrong in it. */
export interface Account {
  readonly run: string;
  readonly iterations: number;
  readonly completions: number;
  readonly tokens: number;
  readonly train_seconds: number;
  /** With evaluations and checkpoints. */
  readonly wall_seconds: number;
  readonly tokens_per_second: number;
  /** Means over iterations, weighted by their time. */
  readonly idle_learner: number;
  readonly idle_actor: number;
  /** Shares of all training completions. */
  readonly outcomes: Readonly<Record<"correct" | "wrong" | "unparsed" | "truncated", number>>;
  readonly reward_errors: number;
  readonly filtered_groups: number;
  /** Answers refused and leases taken back, since the last start of the learner. */
  readonly refused_groups: number;
  readonly released_leases: number;
  readonly skipped_updates: number;
  readonly max_staleness: number;
  /**
   * Largest |actor − learner| log-probability under the same weights, in nats; null where it was not measured.
   */
  readonly max_logprob_gap: number | null;
}

export function account(run: Run): Account {
  const { metrics, summary } = run;
  const all = (key: string): number[] => metrics.flatMap((line) => line[key] ?? []);
  const seconds = sum(all("iteration_seconds"));
  const weighted = (key: string, weight: (line: Readonly<Record<string, number>>) => number): number => {
    const total = sum(metrics.map(weight));
    return total === 0 ? 0 : sum(metrics.map((line) => (line[key] ?? 0) * weight(line))) / total;
  };
  const completionsOf = (line: Readonly<Record<string, number>>): number =>
    (line.completions_per_second ?? 0) * (line.iteration_seconds ?? 0);
  const timeOf = (line: Readonly<Record<string, number>>): number => line.iteration_seconds ?? 0;
  const [correct, unparsed, truncated] = ["accuracy", "outcome/unparsed", "outcome/truncated"].map((key) =>
    weighted(key, completionsOf),
  ) as [number, number, number, number];
  const last = metrics.at(-1) ?? {};
  const totals = (prefix: string): number =>
    sum(Object.entries(last).flatMap(([key, value]) => (key.startsWith(prefix) ? value : [])));
  const tokens = sum(metrics.map(tokensOf));
  const gaps = all("sampling/actor_learner_logprob_gap/max");
  return {
    run: run.name,
    iterations: metrics.length,
    completions: Math.round(sum(metrics.map(completionsOf))),
    tokens: Math.round(tokens),
    train_seconds: seconds,
    wall_seconds: summary?.wall_seconds ?? last.wall_seconds ?? 0,
    tokens_per_second: seconds === 0 ? 0 : tokens / seconds,
    idle_learner: weighted("idle/learner", timeOf),
    idle_actor: weighted("idle/actor", timeOf),
    outcomes: { correct, wrong: Math.max(0, 1 - correct - unparsed - truncated), unparsed, truncated },
    reward_errors: sum(all("reward_errors")),
    filtered_groups: sum(all("filtered_groups")),
    refused_groups: totals("groups_refused_"),
    released_leases: totals("tasks_released_"),
    skipped_updates: last.skipped_updates ?? 0,
    max_staleness: Math.max(0, ...all("staleness/max")),
    max_logprob_gap: gaps.length === 0 ? null : Math.max(...gaps),
  };
}
