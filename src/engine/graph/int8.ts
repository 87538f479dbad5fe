/**
 * Linear layers in 8 bits: weights with a scale for each output, inputs with a scale for each row,
 * so that a row's result does not depend on its neighbours. Sums are exact, in 32 bits.
 */
import type { Graph } from "./onnx.js";

/** Largest size of a rounded value. */
const LEVELS = 127;
/** Rounded inputs are stored with this added: unsigned times signed is what processors multiply. */
const ZERO_POINT = 128;
/** A row of zeros has a scale all the same. */
const SMALLEST = 1e-30;

export const scaleName = (weight: string): string => `${weight}.scale`;

interface Rounded {
  readonly values: string;
  /** [N, 1] */
  readonly scale: string;
}

/** Inputs that were rounded already: queries, keys and values have one, gate and up too. */
const rounded = new WeakMap<Graph, Map<string, Rounded>>();

function roundRows(g: Graph, x: string): Rounded {
  const known = rounded.get(g) ?? new Map<string, Rounded>();
  rounded.set(g, known);
  const found = known.get(x);
  if (found !== undefined) return found;
  const largest = g.node("ReduceMax", [g.node("Abs", [x]), g.int64([-1])]);
  const scale = g.node("Mul", [g.node("Max", [largest, g.float(SMALLEST)]), g.float(1 / LEVELS)]);
  const levels = g.node("Add", [g.node("Round", [g.node("Div", [x, scale])]), g.float(ZERO_POINT)]);
  const one = { values: g.cast(levels, "float32", "uint8"), scale };
  known.set(x, one);
  return one;
}

/** x [N, in] · W for an int8 weight [in, out] of the file: [N, out]. */
export function int8Product(g: Graph, x: string, weight: string): string {
  const { values, scale } = roundRows(g, x);
  const byColumn = g.node("com.microsoft::MatMulIntegerToFloat", [
    values,
    weight,
    g.float(1),
    scaleName(weight),
    g.uint8(ZERO_POINT),
  ]);
  return g.node("Mul", [byColumn, scale]);
}

/** Columns that are turned together, so that both sides are read and written in order. */
const BLOCK = 64;

/**
 * Rounds a weight [out, in] to nearest, a scale for each output.
 * @returns int8 values as [in, out] and the scales [out]
 */
export function quantize(weight: Float32Array, width: number): { values: Int8Array; scales: Float32Array } {
  const out = weight.length / width;
  const values = new Int8Array(weight.length);
  const scales = new Float32Array(out);
  for (let o = 0; o < out; o++) {
    let largest = SMALLEST;
    for (let i = o * width; i < (o + 1) * width; i++) largest = Math.max(largest, Math.abs(weight[i]!));
    scales[o] = largest / LEVELS;
  }
  for (let first = 0; first < out; first += BLOCK) {
    const end = Math.min(out, first + BLOCK);
    for (let i = 0; i < width; i++)
      for (let o = first; o < end; o++) values[i * out + o] = Math.round(weight[o * width + i]! / scales[o]!);
  }
  return { values, scales };
}
