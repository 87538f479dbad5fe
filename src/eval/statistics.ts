/** Intervals and tests over counts of right answers. Each formula names its source; golden values come from scipy and statsmodels. */

/** 0.975 quantile of the standard normal distribution. */
const Z95 = 1.959963984540054;

/**
 * Wilson score interval of a proportion, 95 % (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4).
 * @param successes in [0, n]
 * @returns [low, high] in [0, 1]; [0, 1] when n = 0
 */
export function wilsonInterval(successes: number, n: number): [low: number, high: number] {
  if (n === 0) return [0, 1];
  const p = successes / n;
  const z2 = Z95 * Z95;
  const center = p + z2 / (2 * n);
  const half = Z95 * Math.sqrt((p * (1 - p)) / n + z2 / (4 * n * n));
  const scale = 1 / (1 + z2 / n);
  return [Math.max(0, (center - half) * scale), Math.min(1, (center + half) * scale)];
}
