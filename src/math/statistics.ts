/** Statistics of right and wrong answers: two-sided tests, 95 % intervals, 80 % power. */
import { Draw } from "./random.js";
import {
  bisect,
  fairBinomialPmf,
  normalQuantile,
  studentCdf,
  studentPower,
  studentQuantile,
  upperBound,
} from "./distributions.js";

/** 0.975 and 0.8 quantiles of the standard normal distribution. */
const Z95 = 1.959963984540054;
const Z80 = 0.8416212335729143;

export type Interval = [low: number, high: number];

/** Wilson score interval (Brown, Cai & DasGupta 2001, eq. 4); [0, 1] when n = 0. */
export function wilsonInterval(successes: number, n: number): Interval {
  if (n === 0) return [0, 1];
  const p = successes / n;
  const z2 = Z95 * Z95;
  const center = p + z2 / (2 * n);
  const half = Z95 * Math.sqrt((p * (1 - p)) / n + z2 / (4 * n * n));
  const scale = 1 / (1 + z2 / n);
  return [Math.max(0, (center - half) * scale), Math.min(1, (center + half) * scale)];
}

/** Mid-p McNemar test (Fagerland et al. 2013): p of questions that only A or only B got right. */
export function mcnemarMidP(onlyA: number, onlyB: number): number {
  if (onlyA === onlyB) return 1;
  const n = onlyA + onlyB;
  const fewer = Math.min(onlyA, onlyB);
  let p = fairBinomialPmf(fewer, n);
  for (let k = 0; k < fewer; k++) p += 2 * fairBinomialPmf(k, n);
  return Math.min(1, p);
}

/** Percentile bootstrap interval of a mean (Efron & Tibshirani 1993, §13.3), differences [n]. */
export function pairedBootstrapInterval(differences: readonly number[], seed: number, resamples = 10_000): Interval {
  const n = differences.length;
  const draw = new Draw(seed);
  const means = new Float64Array(resamples);
  for (let r = 0; r < resamples; r++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += differences[Math.floor(draw.unit() * n)]!;
    means[r] = sum / n;
  }
  means.sort();
  return [quantile(means, 0.025), quantile(means, 0.975)];
}

/** Quantile of sorted values by linear interpolation (Hyndman & Fan 1996, type 7). */
function quantile(sorted: Float64Array, p: number): number {
  const position = (sorted.length - 1) * p;
  const below = Math.floor(position);
  const low = sorted[below]!;
  return low + (position - below) * (sorted[Math.min(below + 1, sorted.length - 1)]! - low);
}

/** One-sample t test, df n − 1, of at least two values. @param leastSd least deviation to assume */
export function tTest(
  values: readonly number[],
  leastSd = 0,
): { mean: number; sd: number; interval: Interval; p: number } {
  const n = values.length;
  if (n < 2) throw new RangeError(`a t interval needs at least 2 values, found ${n}`);
  const mean = sum(values) / n;
  const sd = Math.max(leastSd, Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (n - 1)));
  const standardError = sd / Math.sqrt(n);
  const half = studentQuantile(0.975, n - 1) * standardError;
  // under a mean of 0; without any spread 0, or 1 when all values are 0
  const p = mean === 0 ? 1 : 2 * Math.max(0, 1 - studentCdf(Math.abs(mean) / standardError, n - 1));
  return { mean, sd, interval: [mean - half, mean + half], p };
}

/**
 * McNemar's smallest difference d at 80 % power (Connor 1987, eq. 3): n·d² = (z₁₋ₐ·√ψ + z₀.₈·√(ψ −
 * d²))², a half of the level.
 * @param discordant ψ, the share of questions that exactly one of the two gets right
 * @returns null when no possible difference (d ≤ ψ) would be shown
 */
export function detectablePaired(n: number, discordant: number, level = 0.05): number | null {
  const critical = normalQuantile(1 - level / 2);
  const [a, b] = [critical * critical, Z80 * Z80];
  const d = (Math.sqrt(discordant) * (critical * Math.sqrt(n) + Z80 * Math.sqrt(Math.max(0, n + b - a)))) / (n + b);
  return discordant > 0 && d <= discordant ? d : null;
}

/**
 * The smallest mean difference that the t test over seeds shows with 80 % power (Cohen 1988, §2).
 * @param sd of the differences between two algorithms at one seed @param seeds at least 2
 */
export function detectableOverSeeds(sd: number, seeds: number, level = 0.05): number {
  return (detectableShift(seeds, level) * sd) / Math.sqrt(seeds);
}

/** Roots found so far: each takes milliseconds, and studies ask for the same few repeatedly. */
const shifts = new Map<string, number>();

/** Shift of the non-central t distribution at which the test has 80 % power. */
function detectableShift(seeds: number, level: number): number {
  const key = `${seeds} ${level}`;
  let shift = shifts.get(key);
  if (shift === undefined) {
    const df = seeds - 1;
    const critical = studentQuantile(1 - level / 2, df);
    const shortfall = (delta: number): number => studentPower(critical, df, delta) - 0.8;
    const limit = upperBound((delta) => shortfall(delta) >= 0);
    shifts.set(key, (shift = bisect(shortfall, 0, limit)));
  }
  return shift;
}

/** Holm's step-down p-values (Holm 1979), in the order given: compare each with 0.05. */
export function holmAdjusted(pValues: readonly number[]): number[] {
  const order = pValues.map((_, i) => i).sort((i, j) => pValues[i]! - pValues[j]!);
  const adjusted = Array.from(pValues);
  let largest = 0;
  for (const [rank, i] of order.entries()) {
    largest = Math.max(largest, Math.min(1, (pValues.length - rank) * pValues[i]!));
    adjusted[i] = largest;
  }
  return adjusted;
}

/** pass@k, unbiased (Chen et al. 2021, eq. 1): 1 − C(n − c, k) / C(n, k), c of n right, k ≤ n. */
export function passAtK(n: number, c: number, k: number): number {
  if (k < 1 || k > n || c < 0 || c > n) throw new RangeError(`pass@k of n = ${n}, c = ${c}, k = ${k}`);
  if (n - c < k) return 1;
  let allWrong = 1;
  for (let i = n - c + 1; i <= n; i++) allWrong *= 1 - k / i;
  return 1 - allWrong;
}

/** maj@k (Wang et al. 2023): of equally frequent answers the first; undefined has no vote. */
export function majAtK<T>(answers: readonly (T | undefined)[], k: number, isRight: (answer: T) => boolean): boolean {
  if (k < 1 || k > answers.length) throw new RangeError(`maj@k of ${answers.length} answers, k = ${k}`);
  const votes = new Map<T, number>();
  for (const answer of answers.slice(0, k)) if (answer !== undefined) votes.set(answer, (votes.get(answer) ?? 0) + 1);
  let winner: T | undefined;
  for (const [answer, count] of votes) if (winner === undefined || count > votes.get(winner)!) winner = answer;
  return winner !== undefined && isRight(winner);
}

export const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
export const mean = (values: readonly number[]): number => sum(values) / values.length;
