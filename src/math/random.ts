/**
 * Counter-based random numbers for problems and prompt order: functions of their arguments, no
 * state to save.
 */

/**
 * The 32-bit finaliser of MurmurHash3 (fmix32): a bijection on 32-bit words in which every input
 * bit reaches every output bit.
 */
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
  private readonly key: number;
  private count = 0;

  constructor(...key: number[]) {
    this.key = hash32(...key);
  }

  /** Uniform in [0, 1). */
  unit(): number {
    return hash32(this.key, this.count++) / 2 ** 32;
  }

  /** Uniform integer in [low, high], both included. */
  int(low: number, high: number): number {
    return low + Math.floor(this.unit() * (high - low + 1));
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(0, list.length - 1)] as T;
  }
}
