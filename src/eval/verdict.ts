/** Compares checkpoints by question, algorithms by seed: runs of one recipe differ by chance. */
import type { Mode } from "./folder/names.js";
import { points } from "../terminal/format.js";
import { type EvalResult, modesOf } from "./folder/read-results.js";
import {
  detectableOverSeeds,
  detectablePaired,
  holmAdjusted,
  mcnemarMidP,
  mean,
  pairedBootstrapInterval,
  tTest,
  wilsonInterval,
} from "../math/statistics.js";

/** The bootstrap's seed is fixed, so that a comparison is a function of its files. */
const BOOTSTRAP_SEED = 1;
/** Level of all tests, after Holm's correction. */
const LEVEL = 0.05;

/** Two checkpoints in one mode; differences are b − a. */
export type CheckpointComparison = ReturnType<typeof compareCheckpoints>[number];

export const allPairs = (results: readonly unknown[]): (readonly [a: number, b: number])[] =>
  results.flatMap((_, a) => results.slice(a + 1).map((_, i) => [a, a + 1 + i] as const));

/** Compares pairs (indices) of results in each mode; Holm's correction is over all of them. */
export function compareCheckpoints(
  results: readonly EvalResult[],
  pairs: readonly (readonly [a: number, b: number])[] = allPairs(results),
) {
  const modes = modesOf(results[0]!);
  const level = LEVEL / (pairs.length * modes.length);
  return withHolm(pairs.flatMap(([a, b]) => modes.map((mode) => comparePair(results, a, b, mode, level))));
}

function comparePair(results: readonly EvalResult[], a: number, b: number, mode: Mode, level: number) {
  const [answersA, answersB] = [results[a]![mode]!.correct, results[b]![mode]!.correct];
  const n = answersA.length;
  const [rightA, rightB] = [count(answersA), count(answersB)];
  const differences = answersB.map((right, i) => right - answersA[i]!);
  const onlyA = differences.filter((d) => d < 0).length;
  const onlyB = differences.filter((d) => d > 0).length;
  return {
    mode,
    /** Indices into the files compared. */
    a,
    b,
    n,
    accuracy: [rightA / n, rightB / n] as const,
    ci95: [wilsonInterval(rightA, n), wilsonInterval(rightB, n)] as const,
    difference: (rightB - rightA) / n,
    difference_ci95: pairedBootstrapInterval(differences, BOOTSTRAP_SEED),
    /** Questions only one of the two got right. */
    only_a: onlyA,
    only_b: onlyB,
    p: mcnemarMidP(onlyA, onlyB),
    /** The difference found 4 times in 5, by as many questions that differ; null: too few. */
    detectable: detectablePaired(n, (onlyA + onlyB) / n, level),
  };
}

/** Accuracies of two algorithms at one endpoint, run i of both with the same training seed. */
export interface SeedPairs {
  readonly mode: Mode;
  readonly n: number;
  /** [seeds], at least two. */
  readonly a: readonly number[];
  readonly b: readonly number[];
}

export type SeedComparison = ReturnType<typeof compareSeeds<SeedPairs>>[number];

/** Compares seed i of one with seed i of the other; Holm's correction is over the whole family. */
export function compareSeeds<T extends SeedPairs>(family: readonly T[]) {
  return withHolm(
    family.map((pairs) => {
      const { a, b, n } = pairs;
      const differences = b.map((accuracy, i) => accuracy - a[i]!);
      // Rounding has variance 1/(6 n²) (Sheppard): equal differences do not prove that seeds agree.
      const { mean: difference, sd, interval, p } = tTest(differences, 1 / (n * Math.sqrt(6)));
      return {
        ...pairs,
        seeds: a.length,
        accuracy: [mean(a), mean(b)] as const,
        /** [seeds] accuracy of b − a. */
        differences,
        difference,
        sd,
        /** Student's t, seeds − 1 degrees of freedom. */
        difference_ci95: interval,
        p,
        /** Smallest mean difference that would be shown 4 times in 5 at this sd. */
        detectable: detectableOverSeeds(sd, a.length, LEVEL / family.length),
      };
    }),
  );
}

export const isShown = ({ p_holm }: { readonly p_holm: number }): boolean => p_holm < LEVEL;

/** One sentence on one comparison, which may be that nothing was shown. */
export function verdict(comparison: CheckpointComparison | SeedComparison, nameA: string, nameB: string): string {
  const { difference, difference_ci95, p_holm, detectable } = comparison;
  const by = `${points(Math.abs(difference))} points`;
  if (!isShown(comparison)) {
    const seen = difference === 0 ? "equal accuracy" : `${nameB} ${difference < 0 ? "behind" : "ahead"} by ${by}`;
    const power =
      detectable === null
        ? "too few questions differ"
        : detectable > 1
          ? "seeds scatter too much to show any"
          : `4 in 5 times, ${points(detectable)} would be`;
    return `no difference shown (${seen}, corrected p = ${p_holm.toPrecision(2)}; ${power}).`;
  }
  const [better, worse] = difference > 0 ? [nameB, nameA] : [nameA, nameB];
  const [low, high] = difference > 0 ? difference_ci95 : ([-difference_ci95[1], -difference_ci95[0]] as const);
  return `${better} is better than ${worse} by ${by} (95 % interval ${points(low)} to ${points(high)}).`;
}

function withHolm<T extends { readonly p: number }>(comparisons: readonly T[]): (T & { p_holm: number })[] {
  const adjusted = holmAdjusted(comparisons.map((comparison) => comparison.p));
  return comparisons.map((comparison, i) => ({ ...comparison, p_holm: adjusted[i]! }));
}

const count = (answers: readonly number[]): number => answers.filter((right) => right === 1).length;
