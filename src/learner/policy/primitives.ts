/** Operations with hand-written gradients, tested against test/support/primitives-plain.ts. */
import type { Tensor, Tensor2D } from "@tensorflow/tfjs";
import { type RotaryShape, rotaryCosSin } from "../../model/rotary.js";
import type { TF } from "../backend/backend.js";
import { matMul } from "../backend/products.js";
import { constant } from "../backend/scalars.js";

type Save = (tensors: Tensor[]) => void;

/**
 * `tf.customGrad` with less memory: `saved` and `dy` are disposed once `gradFunc` returns.
 * So it must return neither itself but `tf.clone(..)`, which shares the data.
 */
export function customGrad(
  tf: TF,
  inputs: Tensor[],
  f: (inputs: Tensor[], save: Save) => { value: Tensor; gradFunc: (dy: Tensor, saved: Tensor[]) => Tensor[] },
): Tensor {
  const op = tf.customGrad((...args: unknown[]) => {
    const save = args.at(-1) as Save;
    const { value, gradFunc } = f(args.slice(0, -1) as Tensor[], save);
    return {
      value,
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const gradients = tf.tidy(() => gradFunc(dy, saved));
        tf.dispose([dy, ...saved]);
        return gradients;
      },
    };
  });
  return op(...inputs);
}

/** Adds one more part to a gradient; both are disposed where a new tensor is made. */
export function addGradient(tf: TF, soFar: Tensor | null, part: Tensor): Tensor {
  if (soFar === null) return part;
  const sum: Tensor = tf.add(soFar, part);
  tf.dispose([soFar, part]);
  return sum;
}

/**
 * a + b ([N, out], b may be [out]); tf.add would keep both inputs, which no gradient needs.
 * @param frozen b has no gradient
 */
export function plus(tf: TF, a: Tensor, b: Tensor, frozen = false): Tensor2D {
  const isBias = b.rank < a.rank;
  return customGrad(tf, frozen ? [a] : [a, b], ([a]) => ({
    value: tf.add(a!, b),
    gradFunc: (dy) => {
      const da = tf.clone(dy);
      return frozen ? [da] : [da, isBias ? tf.sum(dy, 0) : tf.clone(dy)];
    },
  })) as Tensor2D;
}

/** x [N, in] · weightᵀ [out, in]; a `frozen` weight has no gradient and must outlive that of x. */
export function product(tf: TF, x: Tensor, weight: Tensor, frozen = false): Tensor2D {
  return customGrad(tf, frozen ? [x] : [x, weight], (inputs, save) => {
    if (!frozen) save(inputs);
    return {
      value: matMul(tf, inputs[0]!, weight, false, true, frozen),
      gradFunc: (dy, saved) => {
        const [x, savedWeight = weight] = saved as [Tensor?, Tensor?];
        const dx = matMul(tf, dy, savedWeight, false, false, frozen);
        return x === undefined ? [dx] : [dx, matMul(tf, dy, x, true)];
      },
    };
  }) as Tensor2D;
}

/**
 * RMSNorm: y = x [N, H] · rsqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019, eq. 4).
 * @param frozen the weight has no gradient, and must outlive that of x
 */
export function rmsNorm(tf: TF, x: Tensor, weight: Tensor, eps: number, frozen = false): Tensor2D {
  // tf.mean would first copy what it is given, in a cast from float32 to float32.
  const meanOfRows = (x: Tensor): Tensor => tf.tidy(() => tf.mul(tf.sum(x, 1, true), constant(tf, 1 / x.shape[1]!)));
  return customGrad(tf, frozen ? [x] : [x, weight], ([x, trained], save) => {
    const r = tf.rsqrt(tf.add(meanOfRows(tf.square(x!)), constant(tf, eps)));
    const normed = tf.mul(x!, r);
    save(trained === undefined ? [normed, r] : [normed, r, trained]);
    return {
      value: tf.mul(normed, weight),
      gradFunc: (dy, saved) => {
        const [normed, r, trained] = saved as [Tensor, Tensor, Tensor?];
        const dNormed = tf.mul(dy, trained ?? weight);
        const projected = tf.tidy(() => meanOfRows(tf.mul(dNormed, normed)));
        const along = tf.tidy(() => tf.sub(dNormed, tf.mul(normed, projected)));
        dNormed.dispose();
        const dx = tf.mul(along, r);
        return trained === undefined ? [dx] : [dx, tf.tidy(() => tf.sum(tf.mul(dy, normed), 0))];
      },
    };
  }) as Tensor2D;
}

export type RotaryTables = ReturnType<typeof rotaryTables>;

/**
 * Rotary tables for packed positions; halves lie as in Hugging Face's `rotate_half`.
 * @param heads that x has in `rotary`: each row of a table is there once for each
 */
export function rotaryTables(tf: TF, positions: Int32Array, shape: RotaryShape, heads: number) {
  const { headDim } = shape;
  const half = headDim / 2;
  const tables = rotaryCosSin(positions, shape);
  const repeated = (table: Float32Array): Tensor =>
    tf.tidy(() => tf.reshape(tf.tile(tf.tensor3d(table, [positions.length, 1, half]), [1, heads, 2]), [-1, headDim]));
  const rotate = new Float32Array(headDim * headDim);
  for (let i = 0; i < half; i++) {
    rotate[(half + i) * headDim + i] = -1;
    rotate[i * headDim + half + i] = 1;
  }
  // cos and sin [N · heads, D]; x · rotate [D, D] is (-x₂, x₁), the halves of x exchanged
  return { cos: repeated(tables.cos), sin: repeated(tables.sin), rotate: tf.tensor2d(rotate, [headDim, headDim]) };
}

/** Rotates every head of x [N, heads · D]: y = x · cos + (x · rotate) · sin. */
export function rotary(tf: TF, x: Tensor, { cos, sin, rotate }: RotaryTables): Tensor2D {
  const headDim = rotate.shape[0];
  const shape = x.shape as [number, number];
  return customGrad(tf, [x], ([x]) => {
    const heads = tf.reshape(x!, [-1, headDim]) as Tensor2D;
    const y = tf.add(tf.mul(heads, cos), tf.mul(tf.matMul(heads, rotate), sin));
    return {
      value: tf.reshape(y, shape),
      gradFunc: (dy) => {
        const dHeads = tf.reshape(dy, [-1, headDim]) as Tensor2D;
        const back = tf.matMul(tf.mul(dHeads, sin) as Tensor2D, rotate, false, true);
        return [tf.reshape(tf.add(tf.mul(dHeads, cos), back), shape)];
      },
    };
  }) as Tensor2D;
}

/** SwiGLU: silu(gate) · up (Shazeer 2020, eq. 6). Both [N, I]. */
export function swiGlu(tf: TF, gate: Tensor, up: Tensor): Tensor2D {
  return customGrad(tf, [gate, up], ([gate, up], save) => {
    const s = tf.sigmoid(gate!);
    const silu = tf.mul(gate!, s);
    save([s, silu, up!]);
    return {
      value: tf.mul(silu, up!),
      gradFunc: (dy, saved) => {
        const [s, silu, up] = saved as [Tensor, Tensor, Tensor];
        // silu' = s + silu · (1 - s)
        const slope: Tensor = tf.tidy(() => tf.add(s, tf.sub(silu, tf.mul(silu, s))));
        return [tf.tidy(() => tf.mul(tf.mul(dy, up), slope)), tf.mul(dy, silu)];
      },
    };
  }) as Tensor2D;
}
