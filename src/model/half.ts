/** 16-bit floats of files: widened to float32 exactly, rounded to nearest, ties to even. */
import { UserError } from "../errors.js";

/** bfloat16 is the upper half of a float32. */
export function widenBfloat16(from: Uint16Array, into: Float32Array): void {
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length);
  for (let i = 0; i < from.length; i++) bits[i] = (from[i] as number) << 16;
}

export function narrowToBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const b = bits[i] as number;
    // Adding half of the last kept bit's weight rounds ties to even. NaN keeps a fraction bit.
    out[i] = Number.isNaN(values[i]) ? (b >>> 16) | 0x40 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  }
  return out;
}

let halfValues: Float32Array | undefined;

/** By a table of all 65,536 values. */
export function widenFloat16(from: Uint16Array, into: Float32Array): void {
  halfValues ??= Float32Array.from({ length: 1 << 16 }, (_, half) => halfToFloat(half));
  for (let i = 0; i < from.length; i++) into[i] = halfValues[from[i] as number] as number;
}

/** IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits. */
function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const FLOAT16_MAX = 65504;

/** @param name for the message @throws UserError beyond ±65504, for an infinity or NaN */
export function narrowToFloat16(values: Float32Array, name: string): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const magnitude = Math.abs(values[i] as number);
    if (!(magnitude <= FLOAT16_MAX))
      throw new UserError(
        `${name}: expected values within ±${FLOAT16_MAX}, where float16 ends, found ${values[i]}. Store it as bf16, which has float32's range.`,
      );
    const b = bits[i] as number;
    const sign = (b >>> 16) & 0x8000;
    if (magnitude < 2 ** -14) {
      // Subnormal, in units of 2^-24. Doubles beyond 2^52 are whole: the sum rounds ties to even.
      out[i] = sign | (magnitude * 2 ** 24 + 2 ** 52 - 2 ** 52);
    } else {
      // The exponent's bias goes from 127 to 15; rounding as in bfloat16, with 13 bits to drop.
      const rebiased = (b & 0x7fffffff) - (112 << 23);
      out[i] = sign | ((rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13);
    }
  }
  return out;
}
