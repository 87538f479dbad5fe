/** Distributions for integer degrees of freedom, to 1e-9 of scipy: small packages miss that. */

/** Φ(x) of the standard normal (Marsaglia 2004, "Evaluating the normal distribution", §3). */
function normalCdf(x: number): number {
  if (x < -8) return 0;
  if (x > 8) return 1;
  let term = x;
  let sum = x;
  for (let i = 3; sum + term !== sum; i += 2) {
    term *= (x * x) / i;
    sum += term;
  }
  return 0.5 + sum * Math.exp(-0.5 * x * x - 0.5 * Math.log(2 * Math.PI));
}

/** Quantile of the standard normal distribution. @param p in [0.5, 1) */
export function normalQuantile(p: number): number {
  return bisect((x) => normalCdf(x) - p, 0, 8);
}

/** ln C(n, k), 0 ≤ k ≤ n. */
function logChoose(n: number, k: number): number {
  let sum = 0;
  for (let i = 1; i <= Math.min(k, n - k); i++) sum += Math.log((n - i + 1) / i);
  return sum;
}

/** P(X = k) of a fair coin thrown n times. */
export function fairBinomialPmf(k: number, n: number): number {
  return Math.exp(logChoose(n, k) - n * Math.LN2);
}

/** Student's t distribution, closed form (Abramowitz & Stegun 26.7.3-4), integer df ≥ 1. */
export function studentCdf(t: number, df: number): number {
  const theta = Math.atan(t / Math.sqrt(df));
  const cos2 = Math.cos(theta) ** 2;
  const odd = df % 2 === 1;
  let term = odd ? Math.cos(theta) : 1;
  let sum = odd && df === 1 ? 0 : term;
  for (let i = odd ? 3 : 2; i < df - 1; i += 2) {
    term *= (cos2 * (i - 1)) / i;
    sum += term;
  }
  const within = odd ? (2 / Math.PI) * (theta + Math.sin(theta) * sum) : Math.sin(theta) * sum;
  return 0.5 + within / 2;
}

/** Quantile of Student's t. @param p in [0.5, 1) */
export function studentQuantile(p: number, df: number): number {
  return bisect(
    (t) => studentCdf(t, df) - p,
    0,
    upperBound((t) => studentCdf(t, df) >= p),
  );
}

/** Power: ∫ [1 − Φ(critical·s − δ) + Φ(−critical·s − δ)] f_S(s) ds, S = √(χ²/df). */
export function studentPower(critical: number, df: number, delta: number): number {
  const upper = 1 + 10 / Math.sqrt(df);
  const density = (s: number): number => s ** (df - 1) * Math.exp((-df * (s * s - 1)) / 2);
  const rejected = (s: number): number => 1 - normalCdf(critical * s - delta) + normalCdf(-critical * s - delta);
  return simpson((s) => rejected(s) * density(s), 0, upper, 4000) / simpson(density, 0, upper, 4000);
}

/** The root of an increasing function, to the last bits. */
export function bisect(f: (x: number) => number, low: number, high: number): number {
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2;
    if (middle <= low || middle >= high) break;
    if (f(middle) < 0) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** A power of two at which the condition holds. */
export function upperBound(holds: (x: number) => boolean): number {
  let x = 1;
  while (!holds(x)) x *= 2;
  return x;
}

/** Composite Simpson rule with 2·halves intervals. */
function simpson(f: (x: number) => number, low: number, high: number, halves: number): number {
  const step = (high - low) / (2 * halves);
  let sum = f(low) + f(high);
  for (let i = 1; i < 2 * halves; i++) sum += (i % 2 === 1 ? 4 : 2) * f(low + i * step);
  return (sum * step) / 3;
}
