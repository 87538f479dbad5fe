/**
 * Measuring two sides fairly: A B A B in one run, medians, and their ratio. Knows numbers; knows
 * nothing of what they are of.
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

/**
 * The middle value; the mean of the two middle ones for an even number.
 * @param values at least one
 */
export function median(values: readonly number[]): number {
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

export interface Compared extends Measured {
  /** ours over this peer's, of the medians */
  readonly ratio: number;
}

export interface Comparison {
  readonly ours: Measured;
  /** By name; empty when there was none to compare with. */
  readonly peers: Readonly<Record<string, Compared>>;
}

/**
 * Takes turns: ours, one peer, the next, ours, … so that a change of the machine's mood meets all.
 * Every side runs once untimed first (repeat −1).
 */
export async function interleave(
  ours: Measure,
  peers: Readonly<Record<string, Measure>>,
  repeats: number,
): Promise<Comparison> {
  const sides = [ours, ...Object.values(peers)];
  for (const side of sides) await side(-1);
  const values: number[][] = sides.map(() => []);
  for (let repeat = 0; repeat < repeats; repeat++)
    for (const [s, side] of sides.entries()) values[s]!.push(await side(repeat));
  const [mine, ...theirs] = values.map(summarise);
  return {
    ours: mine!,
    peers: Object.fromEntries(
      Object.keys(peers).map((name, p) => [name, { ...theirs[p]!, ratio: mine!.median / theirs[p]!.median }]),
    ),
  };
}

/** The same measurements in another unit. */
export function converted({ ours, peers }: Comparison, convert: (value: number) => number): Comparison {
  const mine = summarise(ours.values.map(convert));
  return {
    ours: mine,
    peers: Object.fromEntries(
      Object.entries(peers).map(([name, { values }]) => {
        const theirs = summarise(values.map(convert));
        return [name, { ...theirs, ratio: mine.median / theirs.median }];
      }),
    ),
  };
}
