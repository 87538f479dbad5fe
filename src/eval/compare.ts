/**
 * The comparison of evaluation results: checkpoint against checkpoint, paired by question; algorithm against algorithm,
 * paired by seed. Knows results of the same questions, checked by the caller; knows no files and prints nothing.
 *
 * Two checkpoints answer which of these two is better. Whether an algorithm is better, only several seeds answer: runs of
 * one recipe differ by more than their questions tell.
 */
import type { EvalResult, Mode } from "./result-file.js";
import { modesOf } from "./result-file.js";
import {
  type Interval,
  detectableOverSeeds,
  detectablePaired,
  holmAdjusted,
  mcnemarMidP,
  pairedBootstrapInterval,
  tTest,
  wilsonInterval,
} from "./statistics.js";

/** Of the bootstrap: fixed, so that a comparison is a function of its files. */
const BOOTSTRAP_SEED = 1;
/** Level of all tests, after Holm's correction. */
const LEVEL = 0.05;

export interface CheckpointComparison {
  readonly mode: Mode;
  /** Indices into the files compared; differences are b − a. */
  readonly a: number;
  readonly b: number;
  readonly n: number;
  readonly accuracy: readonly [a: number, b: number];
  /** Wilson. */
  readonly ci95: readonly [a: Interval, b: Interval];
  readonly difference: number;
  /** Paired bootstrap over questions. */
  readonly difference_ci95: Interval;
  /** Questions only one of the two got right. */
  readonly only_a: number;
  readonly only_b: number;
  /** Mid-p McNemar. */
  readonly p: number;
  readonly p_holm: number;
  /** Smallest difference shown with 80 % power at this share of discordant questions, at LEVEL / tests; null when they are too few. */
  readonly detectable: number | null;
}

/** Every pair of files in each of their modes; Holm's correction is over all of them. */
export function compareCheckpoints(results: readonly EvalResult[]): CheckpointComparison[] {
  const pairs = results.flatMap((_, a) => results.slice(a + 1).map((_, i) => [a, a + 1 + i] as const));
  const modes = modesOf(results[0]!);
  const level = LEVEL / (pairs.length * modes.length);
  return withHolm(pairs.flatMap(([a, b]) => modes.map((mode) => comparePair(results, a, b, mode, level))));
}

function comparePair(
  results: readonly EvalResult[],
  a: number,
  b: number,
  mode: Mode,
  level: number,
): Omit<CheckpointComparison, "p_holm"> {
  const [answersA, answersB] = [results[a]![mode]!.correct, results[b]![mode]!.correct];
  const n = answersA.length;
  const [rightA, rightB] = [count(answersA), count(answersB)];
  const differences = answersB.map((right, i) => right - answersA[i]!);
  const onlyA = differences.filter((d) => d < 0).length;
  const onlyB = differences.filter((d) => d > 0).length;
  return {
    mode,
    a,
    b,
    n,
    accuracy: [rightA / n, rightB / n],
    ci95: [wilsonInterval(rightA, n), wilsonInterval(rightB, n)],
    difference: (rightB - rightA) / n,
    difference_ci95: pairedBootstrapInterval(differences, BOOTSTRAP_SEED),
    only_a: onlyA,
    only_b: onlyB,
    p: mcnemarMidP(onlyA, onlyB),
    detectable: detectablePaired(n, (onlyA + onlyB) / n, level),
  };
}

export interface SeedComparison {
  readonly mode: Mode;
  readonly seeds: number;
  /** Mean accuracies over seeds. */
  readonly accuracy: readonly [a: number, b: number];
  /** [seeds] accuracy of b − a. */
  readonly differences: readonly number[];
  readonly difference: number;
  /** Standard deviation of the differences. */
  readonly sd: number;
  /** Student's t, seeds − 1 degrees of freedom. */
  readonly difference_ci95: Interval;
  readonly p: number;
  readonly p_holm: number;
  /** Smallest mean difference shown with 80 % power at this standard deviation, at LEVEL / tests. */
  readonly detectable: number;
}

/** Seed i of one algorithm against seed i of the other, at least two seeds, in each of their modes. */
export function compareSeeds(a: readonly EvalResult[], b: readonly EvalResult[]): SeedComparison[] {
  const modes = modesOf(a[0]!);
  return withHolm(
    modes.map((mode) => {
      const accuracies = [a, b].map((side) => side.map((result) => count(result[mode]!.correct) / result.n));
      const [ofA, ofB] = accuracies as [number[], number[]];
      const differences = ofB.map((accuracy, i) => accuracy - ofA[i]!);
      const { mean, sd, interval, p } = tTest(differences);
      return {
        mode,
        seeds: a.length,
        accuracy: [average(ofA), average(ofB)] as const,
        differences,
        difference: mean,
        sd,
        difference_ci95: interval,
        p,
        detectable: detectableOverSeeds(sd, a.length, LEVEL / modes.length),
      };
    }),
  );
}

/** One sentence on one comparison, which may be that nothing was shown. */
export function verdict(comparison: CheckpointComparison | SeedComparison, nameA: string, nameB: string): string {
  const { mode, difference, difference_ci95, p_holm, detectable } = comparison;
  const by = `${points(Math.abs(difference))} points`;
  if (p_holm >= LEVEL) {
    const seen = difference === 0 ? "equal accuracy" : `${nameB} ${difference < 0 ? "behind" : "ahead"} by ${by}`;
    const power = detectable === null ? "too few questions differ" : `4 in 5 times, ${points(detectable)} would be`;
    return `${mode}: no difference shown (${seen}, corrected p = ${p_holm.toPrecision(2)}; ${power}).`;
  }
  const [better, worse] = difference > 0 ? [nameB, nameA] : [nameA, nameB];
  const [low, high] = difference_ci95.map(Math.abs).sort((x, y) => x - y) as [number, number];
  return `${mode}: ${better} is better than ${worse} by ${by} (95 % interval ${points(low)} to ${points(high)}).`;
}

/** Percentage points, without a sign. */
function points(share: number): string {
  return (100 * share).toFixed(1);
}

function withHolm<T extends { readonly p: number }>(comparisons: readonly T[]): (T & { p_holm: number })[] {
  const adjusted = holmAdjusted(comparisons.map((comparison) => comparison.p));
  return comparisons.map((comparison, i) => ({ ...comparison, p_holm: adjusted[i]! }));
}

function count(answers: readonly number[]): number {
  return answers.filter((right) => right === 1).length;
}

function average(values: readonly number[]): number {
  return values.reduce((sum, x) => sum + x, 0) / values.length;
}
