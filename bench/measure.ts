/**
 * Measuring two sides fairly: A B A B in one run, medians, and their ratio. Knows numbers; knows nothing of what they are of.
 */

/** One side's measurements of one case, in the order they were taken, with their summary. */
export interface Measured {
  readonly values: readonly number[];
  readonly median: number;
  readonly min: number;
  readonly max: number;
  /** (max − min) / median: how far single measurements lie apart. */
  readonly spread: number;
}

/** @param values at least one */
function summarise(values: readonly number[]): Measured {
  const middle = median(values);
  const [min, max] = [Math.min(...values), Math.max(...values)];
  return { values, median: middle, min, max, spread: (max - min) / middle };
}

/** The middle value; the mean of the two middle ones for an even number. @param values at least one */
function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error("the median of no values");
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** @param values at least one */
export function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

export type Measure = (repeat: number) => Promise<number>;

/**
 * Takes turns: ours, peer, ours, peer, … so that a change of the machine's mood meets both. Both sides run once untimed
 * first (repeat −1).
 * @param peer null when there is none to compare with
 * @returns ratio: ours over the peer's, of the medians
 */
export async function interleave(
  ours: Measure,
  peer: Measure | null,
  repeats: number,
): Promise<{ ours: Measured; peer: Measured | null; ratio: number | null }> {
  await ours(-1);
  await peer?.(-1);
  const mine: number[] = [];
  const theirs: number[] = [];
  for (let repeat = 0; repeat < repeats; repeat++) {
    mine.push(await ours(repeat));
    if (peer !== null) theirs.push(await peer(repeat));
  }
  const measured = summarise(mine);
  if (peer === null) return { ours: measured, peer: null, ratio: null };
  const compared = summarise(theirs);
  return { ours: measured, peer: compared, ratio: measured.median / compared.median };
}
