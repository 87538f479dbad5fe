/**
 * Every replaced kernel, and every operation that a Qwen2 training step uses, against the cpu
 * backend: values and gradients. (`Sum` and `Slice` appear within many of them.)
 */
import type { Tensor } from "@tensorflow/tfjs";
import * as fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { startBackend, type TF } from "../../../src/learner/backend/backend.js";
import { overrideWasmKernels } from "../../../src/learner/backend/wasm-kernels.js";

let tf: TF;
beforeAll(async () => {
  await startBackend("cpu", 0);
  ({ tf } = await startBackend("wasm", 0));
});

type Op = (...inputs: Tensor[]) => Tensor;

/** Deterministic values in [-1, 1), none of them 0. */
function values(shape: number[], salt = 1): Float32Array {
  return Float32Array.from(
    { length: shape.reduce((a, b) => a * b, 1) },
    (_, i) => Math.sin((i + 1) * 12.9898 * salt) || 0.5,
  );
}

/**
 * The op's result and, where it has one, the gradient of Σ w·result in each input; everything as
 * plain numbers.
 */
async function evaluate(backend: "cpu" | "wasm", op: Op, shapes: number[][], differentiable: boolean) {
  await tf.setBackend(backend);
  const before = tf.memory().numTensors;
  const results = tf.tidy(() => {
    const inputs = shapes.map((shape, i) => tf.tensor(values(shape, i + 1), shape));
    const out = op(...inputs);
    const weighted: Op = (...x) => {
      const y = op(...x);
      return tf.sum(tf.mul(y, tf.tensor(values(y.shape, 7), y.shape)));
    };
    const gradients = differentiable ? tf.grads(weighted)(inputs) : [];
    const found = [out, ...gradients].map((x) => ({ shape: x.shape, dtype: x.dtype, values: [...x.dataSync()] }));
    // Kernels share buffers; none may write into its inputs.
    inputs.forEach((x, i) => expect(x.dataSync()).toEqual(values(shapes[i]!, i + 1)));
    return found;
  });
  expect(tf.memory().numTensors).toBe(before);
  return results;
}

async function expectSame(op: Op, shapes: number[][], { differentiable = true } = {}): Promise<void> {
  const expected = await evaluate("cpu", op, shapes, differentiable);
  const found = await evaluate("wasm", op, shapes, differentiable);
  expect(found.map(({ shape, dtype }) => ({ shape, dtype }))).toEqual(
    expected.map(({ shape, dtype }) => ({ shape, dtype })),
  );
  found.forEach((tensor, k) => {
    tensor.values.forEach((value, i) => {
      const wanted = expected[k]!.values[i]!;
      if (!(Math.abs(value - wanted) <= 3e-6 * (1 + Math.abs(wanted))))
        expect({ output: k, index: i, value }).toEqual({ output: k, index: i, value: wanted });
    });
  });
}

describe("replaced kernels", () => {
  test("matMul with any transposes, sizes and batch (property)", async () => {
    const size = fc.integer({ min: 1, max: 9 });
    const shapes = fc.record({
      m: size,
      k: size,
      n: size,
      batch: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 2 }),
      ta: fc.boolean(),
      tb: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(shapes, async ({ m, k, n, batch, ta, tb }) => {
        const a = [...batch, ...(ta ? [k, m] : [m, k])];
        const b = [...batch, ...(tb ? [n, k] : [k, n])];
        await expectSame((x, y) => tf.matMul(x, y, ta, tb), [a, b]);
      }),
      { numRuns: 60 },
    );
  });

  test.each([
    { a: [3], b: [1] },
    { a: [1], b: [3] },
    { a: [2, 1], b: [1, 3] },
    { a: [2, 3], b: [] },
  ])("matMul broadcasts batches $a and $b like operands that were spelled out", async ({ a, b }) => {
    await tf.setBackend("wasm"); // the cpu backend is wrong for [2, 1] and [1, 3]; tfjs-core has no gradient for any of them
    tf.tidy(() => {
      const batch = tf.broadcast_util.assertAndGetBroadcastShape(a, b);
      const [x, y] = [tf.tensor(values([...a, 2, 4]), [...a, 2, 4]), tf.tensor(values([...b, 4, 5], 2), [...b, 4, 5])];
      const expected = tf.matMul(tf.broadcastTo(x, [...batch, 2, 4]), tf.broadcastTo(y, [...batch, 4, 5]));
      const found = tf.matMul(x, y);
      expect(found.shape).toEqual([...batch, 2, 5]);
      expect(tf.max(tf.abs(tf.sub(found, expected))).dataSync()[0]).toBeLessThan(1e-6);
    });
  });

  test("matMul of nothing: empty batch, empty rows, and zeros for an empty inner size", async () => {
    await expectSame(
      (x, y) => tf.matMul(x, y),
      [
        [0, 2, 3],
        [0, 3, 4],
      ],
    );
    await expectSame(
      (x, y) => tf.matMul(x, y, true, true),
      [
        [3, 0],
        [4, 3],
      ],
    );
    await expectSame(
      (x, y) => tf.matMul(x, y),
      [
        [2, 0],
        [0, 3],
      ],
    );
  });

  test("matMul leaves no buffer behind in the wasm heap", async () => {
    await tf.setBackend("wasm");
    const buffers = () => (tf.backend() as unknown as { numDataIds(): number }).numDataIds();
    const before = buffers();
    tf.dispose(
      tf.tidy(() => tf.grads((a, b) => tf.sum(tf.matMul(a, b, true, false)))([tf.ones([2, 3, 4]), tf.ones([2, 3, 5])])),
    );
    expect(buffers()).toBe(before);
  });

  test.each([
    { axis: 0, shape: [6], indices: [5, 0, 5] },
    { axis: 0, shape: [6, 3], indices: [1, 5, 1, 0] },
    { axis: 0, shape: [6, 3], indices: [] },
    { axis: 1, shape: [2, 6, 3], indices: [4, 4, 0] },
  ])("gather of $shape on axis $axis, with its gradient (UnsortedSegmentSum)", async ({ axis, shape, indices }) => {
    await expectSame((x) => tf.gather(x, tf.tensor1d(indices, "int32"), axis), [shape]);
  });

  test("gather keeps the shape of its indices and the dtype of its data", async () => {
    await expectSame((x) => tf.gather(x, tf.tensor2d([1, 0, 2, 2], [2, 2], "int32")), [[3, 4]]);
    await expectSame((x) => tf.gather(tf.greater(x, 0), tf.tensor1d([2, 0], "int32")), [[3, 4]], {
      differentiable: false,
    });
  });

  test.each([-1, 3])("gather refuses the index %d of three rows", async (index) => {
    await tf.setBackend("wasm");
    const gather = () => tf.tidy(() => tf.gather(tf.ones([3, 2]), tf.tensor1d([0, index], "int32")));
    expect(gather).toThrow(`the index ${index} is not in [0, 2]`);
  });

  test("unsortedSegmentSum leaves out negative ids and gives 0 to absent ones", async () => {
    await expectSame((x) => tf.unsortedSegmentSum(x, tf.tensor1d([1, -1, 1, 0], "int32"), 3), [[4, 2]]);
  });

  test.each([0, 1, 2, -1])("split on axis %d, in parts of different sizes", async (axis) => {
    await expectSame((x) => tf.concat(tf.split(x, [1, 3], axis).toReversed(), axis), [[4, 4, 4]]);
    await expectSame((x) => tf.mul(...(tf.split(x, 2, axis) as [Tensor, Tensor])), [[4, 4, 4]]);
  });

  test("slice of any box (property)", async () => {
    const axis = fc
      .integer({ min: 1, max: 5 })
      .chain((size) =>
        fc
          .tuple(fc.constant(size), fc.nat(size - 1))
          .chain(([size, begin]) =>
            fc.tuple(fc.constant(size), fc.constant(begin), fc.integer({ min: 0, max: size - begin })),
          ),
      );
    await fc.assert(
      fc.asyncProperty(fc.array(axis, { minLength: 1, maxLength: 4 }), async (axes) => {
        const [shape, begin, size] = [0, 1, 2].map((k) => axes.map((entry) => entry[k]!)) as [
          number[],
          number[],
          number[],
        ];
        await expectSame((x) => tf.slice(x, begin, size), [shape]);
      }),
      { numRuns: 60 },
    );
    await expectSame((x) => tf.slice(x, [1, 0], [-1, 40]), [[3, 50]]); // runs long enough for a block copy
  });

  test("a sum over a vocabulary keeps terms that float32 would lose one by one", async () => {
    await tf.setBackend("wasm");
    const V = 49_152;
    // 2^-25 is less than half of the last place of 1
    const row = Float32Array.from({ length: V }, (_, i) => (i === 0 ? 1 : 2 ** -25));
    const sums = tf.tidy(() => tf.sum(tf.tensor([...row, ...row], [2, V]), 1).dataSync());
    for (const sum of sums) expect(Math.abs(sum - (1 + (V - 1) * 2 ** -25))).toBeLessThan(1e-7);
  });

  test.each([0, 1, 2, [0, 1], [1, 2], [0, 1, 2], undefined])("sum over %j", async (axis) => {
    await expectSame((x) => tf.sum(x, axis), [[3, 4, 5]]);
    await expectSame((x) => tf.sum(x, axis, true), [[3, 4, 5]]);
  });

  test("cast to bool is true for everything but 0, and casts between numbers keep their values", async () => {
    await expectSame(() => tf.cast(tf.cast(tf.tensor1d([0, 256, -1, 2], "int32"), "bool"), "int32"), [], {
      differentiable: false,
    });
    await expectSame((x) => tf.cast(x, "bool"), [[5]], { differentiable: false });
    await expectSame((x) => tf.cast(tf.cast(tf.mul(x, 9), "int32"), "float32"), [[9]], { differentiable: false });
  });

  test.each(["int32", "float32", "bool"] as const)("oneHot as %s, with an index out of range", async (dtype) => {
    const op = () => tf.oneHot(tf.tensor2d([0, 3, 7, -1], [2, 2], "int32"), 4, 1, 0, dtype);
    await expectSame(op, [], { differentiable: false });
  });

  test("a clone outlives its original", async () => {
    await tf.setBackend("wasm");
    const original = tf.tensor1d([1, 2]);
    const clone = tf.tidy(() => tf.clone(original));
    original.dispose();
    expect([...clone.dataSync()]).toEqual([1, 2]);
    clone.dispose();
  });

  test("replacing twice changes nothing", async () => {
    await tf.setBackend("wasm");
    const kernel = tf.getKernel("BatchMatMul", "wasm");
    overrideWasmKernels(tf);
    expect(tf.getKernel("BatchMatMul", "wasm")).toBe(kernel);
  });
});

const positive = (x: Tensor) => tf.add(tf.square(x), 0.1);
const operations: [string, Op, ...number[][]][] = [
  ["add, broadcast", (a, b) => tf.add(a, b), [2, 3, 4], [3, 1]],
  ["sub, broadcast", (a, b) => tf.sub(a, b), [4], [2, 3, 4]],
  ["mul, broadcast both ways", (a, b) => tf.mul(a, b), [2, 1, 4], [1, 3, 1]],
  ["div, broadcast", (a, b) => tf.div(a, positive(b)), [3, 4], [3, 1]],
  ["maximum", (a, b) => tf.maximum(a, b), [3, 4], [3, 4]],
  ["minimum", (a, b) => tf.minimum(a, b), [3, 4], [3, 4]],
  ["clipByValue", (x) => tf.clipByValue(x, -0.3, 0.4), [3, 9]],
  ["exp", (x) => tf.exp(x), [3, 5]],
  ["log", (x) => tf.log(positive(x)), [3, 5]],
  ["rsqrt", (x) => tf.rsqrt(positive(x)), [3, 5]],
  ["sqrt", (x) => tf.sqrt(positive(x)), [3, 5]],
  ["square", (x) => tf.square(x), [3, 5]],
  ["sigmoid", (x) => tf.sigmoid(tf.mul(x, 20)), [3, 5]],
  ["tanh", (x) => tf.tanh(x), [3, 5]],
  ["neg, abs", (x) => tf.abs(tf.neg(x)), [3, 5]],
  ["mean", (x) => tf.mean(x, -1, true), [2, 3, 5]],
  ["max", (x) => tf.max(x, -1), [2, 3, 5]],
  ["logSumExp", (x) => tf.logSumExp(tf.mul(x, 50), -1), [3, 17]],
  ["softmax", (x) => tf.softmax(tf.mul(x, 50)), [2, 2, 3, 5]],
  ["logSoftmax", (x) => tf.logSoftmax(x), [3, 17]],
  ["reshape", (x) => tf.reshape(x, [6, -1]), [3, 4]],
  ["transpose", (x) => tf.transpose(x, [0, 2, 1, 3]), [2, 3, 4, 5]],
  ["concat on the last axis", (a, b) => tf.concat([a, b], -1), [2, 3], [2, 4]],
  ["stack, unstack", (a, b) => tf.unstack(tf.stack([a, b], 1), 0)[1]!, [3, 4], [3, 4]],
  ["pad", (x) => tf.pad(x, [[0, 2], [1, 0]]), [3, 4]], // prettier-ignore
  ["tile", (x) => tf.tile(x, [1, 2, 1]), [2, 1, 3]],
  ["where", (a, b) => tf.where(tf.tensor2d([1, 0, 0, 1], [2, 2], "bool"), a, b), [2, 2], [2, 2]],
  [
    "attention under a mask",
    (q, k, v) => tf.matMul(tf.softmax(tf.add(tf.matMul(q, k, false, true), tf.tensor2d([0, -1e9, 0, 0], [2, 2]))), v),
    [3, 2, 4],
    [3, 2, 4],
    [3, 2, 4],
  ],
  ["RMSNorm", (x, w) => tf.mul(tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), 1e-6))), w), [3, 8], [8]],
  ["SwiGLU", (a, b) => tf.mul(tf.mul(a, tf.sigmoid(a)), b), [3, 4], [3, 4]],
];

test.each(operations)("%s equals the cpu backend's, with its gradients", async (_, op, ...shapes) => {
  await expectSame(op, shapes);
});
