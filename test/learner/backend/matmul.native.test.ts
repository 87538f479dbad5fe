/** bfloat16 products: what they round, and who may have them. oneDNN decides once a process. */
import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { describeBackend, startBackend } from "../../../src/learner/backend/backend.js";
import { nativeBindingPath } from "../../../src/machine/native-binding.js";
import { mulberry32 } from "../../../src/math/random.js";

const hasAmx = existsSync("/proc/cpuinfo") && /\bamx_bf16\b/.test(readFileSync("/proc/cpuinfo", "utf8"));
const withBinding = test.skipIf(!existsSync(nativeBindingPath()));

withBinding("bfloat16 rounds the factors of a product, and nothing more", async () => {
  const backend = await startBackend("tensorflow", 1, "auto");
  expect(backend.matmul).toBe(hasAmx ? "bfloat16" : "float32");
  expect(describeBackend(backend)).toContain(hasAmx ? ", bfloat16 products)" : "libtensorflow");
  const { tf } = backend;
  const next = mulberry32(1);
  const [rows, inner, columns] = [64, 512, 96];
  const values = (n: number): Float32Array => Float32Array.from({ length: n }, () => next() - 0.5);
  const [a, b] = [values(rows * inner), values(inner * columns)];
  const found = tf.tidy(() => tf.matMul(tf.tensor2d(a, [rows, inner]), tf.tensor2d(b, [inner, columns])).dataSync());
  let worst = 0;
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) {
      let sum = 0;
      let size = 0;
      for (let k = 0; k < inner; k++) {
        const term = a[i * inner + k]! * b[k * columns + j]!;
        sum += term;
        size += Math.abs(term);
      }
      worst = Math.max(worst, Math.abs(found[i * columns + j]! - sum) / size);
    }
  // a factor loses at most 2^-8 of itself, and float32's sums of 512 terms next to nothing
  expect(worst).toBeLessThan(hasAmx ? 2 ** -7 : 1e-6);
  if (hasAmx) expect(worst).toBeGreaterThan(1e-5);
});

test("bfloat16 products are TensorFlow's: another backend is refused by the key's name", async () => {
  await expect(startBackend("wasm", 1, "bfloat16")).rejects.toThrow(
    /learner\.matmul=bfloat16 needs TensorFlow on a processor/,
  );
  expect((await startBackend("wasm", 1, "auto")).matmul).toBe("float32");
});
