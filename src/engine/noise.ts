/**
 * Sampling noise by seed, completion and position only, so a run repeats with any number of actors.
 * Philox4x32-10 (Salmon et al. 2011): key = the 64-bit seed; counter = (position div 4, completion,
 * 0, 0); position mod 4 picks the word.
 */
const ROUNDS = 10;
/** 24 bits: every value is exact in float32, and the largest is 1 - 2^-24. */
const TO_UNIT = 2 ** -24;

/** High 32 bits of the unsigned 32 × 32 product; the low ones are `Math.imul`. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  // Each partial sum stays below 2^53, so plain number arithmetic is exact.
  const middle = aHigh * bLow + (aLow * bLow) / 0x10000;
  const crossed = aLow * bHigh + (Math.floor(middle) % 0x10000);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(crossed / 0x10000)) >>> 0;
}

/** One Philox4x32-10 block: 128-bit counter, 64-bit key; `out` receives four unsigned words. */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
  out: Uint32Array,
): void {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const [a, b] = [c0, c2];
    c0 = (mulHigh(0xcd9e8d57, b) ^ c1 ^ k0) >>> 0;
    c1 = Math.imul(0xcd9e8d57, b) >>> 0;
    c2 = (mulHigh(0xd2511f53, a) ^ c3 ^ k1) >>> 0;
    c3 = Math.imul(0xd2511f53, a) >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out.set([c0, c1, c2, c3]);
}

const words = new Uint32Array(4);

/** The uniform in [0, 1) of one token, a multiple of 2^-24. */
export function uniform(seed: bigint, completion: number, position: number): number {
  philox4x32([position >>> 2, completion, 0, 0], keyOf(seed), words);
  return ((words[position & 3] ?? 0) >>> 8) * TO_UNIT;
}

/** Writes uniforms `from … from + count - 1` into one column of a row-major [count, columns]. */
export function fillUniforms(
  out: Float32Array,
  columns: number,
  column: number,
  count: number,
  seed: bigint,
  completion: number,
  from: number,
): void {
  const key = keyOf(seed);
  for (let step = 0; step < count; step++) {
    const position = from + step;
    if (step === 0 || (position & 3) === 0) philox4x32([position >>> 2, completion, 0, 0], key, words);
    out[step * columns + column] = ((words[position & 3] ?? 0) >>> 8) * TO_UNIT;
  }
}

function keyOf(seed: bigint): [number, number] {
  return [Number(seed & 0xffffffffn), Number((seed >> 32n) & 0xffffffffn)];
}
