import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { afterEach, expect, test, vi } from "vitest";
import { startBackend } from "../../../src/learner/backend/backend.js";
import { UserError } from "../../../src/errors.js";

const require = createRequire(import.meta.url);
const binding = vi.hoisted(() => ({ missing: false }));
vi.mock(import("../../../src/machine/native-binding.js"), async (original) => {
  const { nativeBindingPath, ...rest } = await original();
  return { ...rest, nativeBindingPath: () => (binding.missing ? "/nowhere/tfjs_binding.node" : nativeBindingPath()) };
});
const { nativeBindingPath } = await import("../../../src/machine/native-binding.js");
const withBinding = test.skipIf(!existsSync(nativeBindingPath())); // `npm run setup` prepares it where it can

afterEach(() => {
  binding.missing = false;
  vi.restoreAllMocks();
});

test.each(["wasm", "cpu"] as const)("%s starts by name, uses no GPU and is the current backend", async (name) => {
  const started = await startBackend(name, 2);
  expect(started).toMatchObject({ name, usesGpu: false, why: [] });
  expect(started.library).toMatch(/^tfjs-backend-\w+ \d+\.\d+/);
  expect(started.tf.getBackend()).toBe(name);
});

withBinding("auto prefers TensorFlow and passes the number of threads on", async () => {
  const started = await startBackend("auto", 1);
  expect(started).toMatchObject({ name: "tensorflow", why: [] });
  expect(started.library).toMatch(/^libtensorflow 2\./);
  expect(process.env["TF_NUM_INTRAOP_THREADS"]).toBe("1");
});

withBinding("tf is the very instance that tfjs-node-gpu works on", async () => {
  const { tf } = await startBackend("tensorflow", 1);
  const node = require("@tensorflow/tfjs-node-gpu") as typeof tf;
  expect(node.Tensor).toBe(tf.Tensor);
  expect(node.engine()).toBe(tf.engine());
});

test("without the native binding auto takes wasm and says why", async () => {
  binding.missing = true;
  const started = await startBackend("auto", 0);
  expect(started.name).toBe("wasm");
  expect(started.why).toEqual([expect.stringMatching(/^tensorflow: .*npm run setup/)]);
});

test("a backend asked for by name is not replaced by another", async () => {
  binding.missing = true;
  const failed = startBackend("tensorflow", 0);
  await expect(failed).rejects.toThrow(UserError);
  await expect(failed).rejects.toThrow(/learner\.backend=tensorflow .*npm run setup.*learner\.backend=auto/);
});

test("a backend that computes wrong values is refused", async () => {
  const { tf } = await startBackend("cpu", 0);
  const right = tf.getKernel("BatchMatMul", "cpu");
  tf.unregisterKernel("BatchMatMul", "cpu");
  tf.registerKernel({
    ...right,
    kernelFunc: (args) =>
      right.kernelFunc({ ...args, inputs: { a: args.inputs["a"]!, b: tf.zerosLike(args.inputs["b"] as never) } }),
  });
  await expect(startBackend("cpu", 0)).rejects.toThrow(/self-test gave 0 0 0 0 101 0 10, expected 58 64 139 154/);
  tf.unregisterKernel("BatchMatMul", "cpu");
  tf.registerKernel(right);
  expect((await startBackend("cpu", 0)).name).toBe("cpu");
});

test("starting prints nothing and leaves no tensors", async () => {
  const printed = (["log", "warn", "error", "info"] as const).map((method) => vi.spyOn(console, method));
  for (const name of ["wasm", "cpu"] as const) {
    const { tf } = await startBackend(name, 0);
    expect(tf.memory().numTensors).toBe(0);
  }
  for (const spy of printed) expect(spy).not.toHaveBeenCalled();
});
