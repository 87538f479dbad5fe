/**
 * Seeded random numbers. `hash32` and `Draw` have no state to save: problems and prompt order.
 * `mulberry32` is a sequence: initial weights and shuffles. Sampling noise is engine/noise.ts.
 */

/** MurmurHash3's fmix32: a bijection in which every input bit reaches every output bit. */
function mix32(word: number): number {
  let h = word >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Hash of non-negative integers below 2^53, in [0, 2^32). */
export function hash32(...values: number[]): number {
  let h = 0x9e3779b9;
  for (const value of values) {
    h = mix32(h ^ (value >>> 0));
    h = mix32((h + Math.floor(value / 2 ** 32) + 0x9e3779b9) >>> 0);
  }
  return h;
}

/** Hash of a text's UTF-16 code units, in [0, 2^32). */
export function hashText(text: string): number {
  let h = text.length;
  for (let i = 0; i < text.length; i++) h = mix32(Math.imul(h, 31) + text.charCodeAt(i));
  return h;
}

/** A sequence of draws that is a function of its key. */
export class Draw {
  readonly #key: number;
  #count = 0;

  constructor(...key: number[]) {
    this.#key = hash32(...key);
  }

  unit(): number {
    return hash32(this.#key, this.#count++) / 2 ** 32;
  }

  /** Uniform integer in [low, high], both included. */
  int(low: number, high: number): number {
    return low + Math.floor(this.unit() * (high - low + 1));
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)] as T;
  }
}

/** Makes a generator of uniforms in [0, 1), of period 2^32 (Tommy Ettinger, public domain). */
export function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The numbers 0 … n-1 in random order (Fisher-Yates). */
export function shuffled(n: number, random: () => number): number[] {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
