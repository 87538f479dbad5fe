/** Products with bfloat16: what they round, and who may have them. */
import { existsSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it, test } from "vitest";
import type { Tensor2D } from "@tensorflow/tfjs";
import { describeBackend, startBackend, type TF } from "../../../src/learner/backend/backend.js";
import { forgetConstants, matMul, multipliesBfloat16 } from "../../../src/learner/backend/products.js";
import { nativeBindingPath } from "../../../src/machine/native-binding.js";
import { mulberry32 } from "../../../src/math/random.js";
import { narrowToBfloat16, widenBfloat16 } from "../../../src/model/half.js";

describe.skipIf(!existsSync(nativeBindingPath()))("bfloat16 products", () => {
  let tf: TF;
  beforeAll(async () => void ({ tf } = await startBackend("tensorflow", 1, "bfloat16")));
  afterAll(async () => void (await startBackend("tensorflow", 1)));

  const next = mulberry32(1);
  const values = (rows: number, columns: number): Float32Array =>
    Float32Array.from({ length: rows * columns }, () => next() - 0.5);
  const rounded = (x: Float32Array): Float32Array => {
    const wide = new Float32Array(x.length);
    widenBfloat16(narrowToBfloat16(x), wide);
    return wide;
  };

  it.each([
    [false, false],
    [true, false],
    [false, true],
    [true, true],
  ])("round factors and result to nearest, sums are float32 (transposed: %s, %s)", (transposeA, transposeB) => {
    const [rows, inner, columns] = [64, 300, 96];
    const a = values(rows, inner); // as [inner, rows] when transposed
    const b = values(inner, columns);
    const left = tf.tensor2d(a, transposeA ? [inner, rows] : [rows, inner]);
    const right = tf.tensor2d(b, transposeB ? [columns, inner] : [inner, columns]);
    const before = tf.memory().numTensors;
    const product = matMul(tf, left, right, transposeA, transposeB);
    expect(product.shape).toEqual([rows, columns]);
    const found = product.dataSync();
    product.dispose();
    expect(tf.memory().numTensors).toBe(before);
    expect(rounded(found as Float32Array)).toEqual(found);
    const [ra, rb] = [rounded(a), rounded(b)];
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        let sum = 0;
        for (let k = 0; k < inner; k++)
          sum += ra[transposeA ? k * rows + i : i * inner + k]! * rb[transposeB ? j * inner + k : k * columns + j]!;
        // half a step of 8 bits, and what float32's sums lose
        expect(Math.abs(found[i * columns + j]! - sum)).toBeLessThanOrEqual(2 ** -8 * Math.abs(sum) + 2e-5);
      }
    tf.dispose([left, right]);
  });

  it("of a constant use one rounded copy until it is forgotten", () => {
    const [a, b] = [tf.tensor2d(values(64, 64), [64, 64]), tf.tensor2d(values(64, 64), [64, 64])];
    const once = (): Float32Array => tf.tidy(() => matMul(tf, a, b, false, true, true).dataSync() as Float32Array);
    const first = once();
    expect(once()).toEqual(first);
    forgetConstants(tf, [b]);
    expect(once()).toEqual(first);
    forgetConstants(tf, [b, b]);
    tf.dispose([a, b]);
  });

  it("leave small ones exact: those of adapters and heads", () => {
    const a: Tensor2D = tf.mul(tf.ones([128, 16]), 1 + 2 ** -10);
    const found = tf.tidy(() => matMul(tf, a, tf.ones([16, 128])).dataSync());
    expect(found[0]).toBe(16 + 16 * 2 ** -10);
    a.dispose();
  });
});

test("bfloat16 is TensorFlow's: another backend is refused by the key's name, and auto takes float32 there", async () => {
  await expect(startBackend("wasm", 1, "bfloat16")).rejects.toThrow(/learner\.matmul=bfloat16 needs TensorFlow/);
  expect((await startBackend("wasm", 1, "auto")).matmul).toBe("float32");
});

test.skipIf(!existsSync(nativeBindingPath()))("auto is bfloat16 where the processor multiplies it", async () => {
  const backend = await startBackend("tensorflow", 1, "auto");
  const expected = multipliesBfloat16() && !backend.usesGpu;
  expect(backend.matmul).toBe(expected ? "bfloat16" : "float32");
  expect(describeBackend(backend).endsWith(", bfloat16 products)")).toBe(expected);
  await startBackend("tensorflow", 1);
});
