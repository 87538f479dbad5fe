import { readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs";
import { beforeAll, describe, expect, test } from "vitest";
import { AdamW } from "../../../src/learner/policy/optimizer.js";
import {
  completionLogprobs,
  completionValues,
  disposeBatch,
  hiddenStates,
  prepareMicrobatch,
  type Microbatch,
} from "../../../src/learner/policy/policy.js";
import { splitFlat, type NamedWeights } from "../../../src/learner/policy/named-weights.js";
import { parseModelConfig } from "../../../src/model/config.js";
import { layoutSize, packShapes, weightLayout } from "../../../src/model/layout.js";

const golden = JSON.parse(readFileSync(new URL("../../golden/train_step.json", import.meta.url), "utf8"));
const config = parseModelConfig(golden.config, "golden");
const layout = packShapes([
  ...weightLayout(config).map((e) => [e.name, e.shape] as const),
  ["value_head.weight", [config.hiddenSize]],
  ["value_head.bias", []],
]);
/** The formula of train_step_reference.py. */
const initial = new Float32Array(layoutSize(layout));
layout.forEach((entry, k) => {
  const seed = entry.name === "value_head.weight" ? 50 : k;
  for (let i = 0; i < entry.size; i++) {
    const norm = entry.name.includes("norm") ? 1 : 0;
    initial[entry.offset + i] =
      entry.name === "value_head.bias" ? 0.25 : 0.3 * Math.sin(0.7 * i * (1 + seed / 10) + seed) + norm;
  }
});
const adam = {
  adam_beta1: golden.adam.beta1,
  adam_beta2: golden.adam.beta2,
  adam_epsilon: golden.adam.epsilon,
  weight_decay: golden.adam.weightDecay,
  max_grad_norm: golden.max_norm,
};
const groups = golden.groups.map((g: { prompt: number[]; completions: number[][] }) => ({
  promptIds: Int32Array.from(g.prompt),
  completions: g.completions.map((c) => Int32Array.from(c)),
}));

function worst(actual: ArrayLike<number>, reference: ArrayLike<number>): number {
  expect(actual.length).toBe(reference.length);
  let gap = 0;
  let largest = 0;
  for (let i = 0; i < actual.length; i++) {
    gap = Math.max(gap, Math.abs(actual[i]! - reference[i]!));
    largest = Math.max(largest, Math.abs(reference[i]!));
  }
  return gap / largest;
}

/** The reference's loss: cos(i) logp + 0.1 H + 0.2 sin(i) V². */
function lossOf(flat: tf.Tensor, batch: Microbatch, checkpointing: boolean, select: number[] = [0, 1]): tf.Scalar {
  const before = select[0] === 1 ? groups[0].completions.reduce((n: number, c: Int32Array) => n + c.length, 0) : 0;
  const weights: NamedWeights = { tensors: splitFlat(tf, flat, layout), lora: null };
  const hidden = hiddenStates(tf, config, weights, batch, checkpointing);
  const both = completionLogprobs(tf, config, weights, hidden, batch, golden.temperature, "both");
  const values = completionValues(tf, weights, hidden, batch.predictors);
  const tokens = Array.from({ length: batch.packed.targets.length }, (_, i) => i + before);
  const [logp, entropy] = tf.split(both, 2, 1) as [tf.Tensor, tf.Tensor];
  const policy = tf.sum(tf.mul(tf.reshape(logp, [-1]), tf.tensor1d(tokens.map(Math.cos))));
  const value = tf.sum(tf.mul(tf.square(values), tf.tensor1d(tokens.map((i) => 0.2 * Math.sin(i)))));
  return tf.addN([policy, tf.mul(tf.sum(entropy), 0.1), value]) as tf.Scalar;
}

beforeAll(async () => {
  await tf.setBackend("cpu");
});

describe("policy against torch", () => {
  test("log-probabilities, entropies and values of packed groups equal row by row torch", async () => {
    const batch = prepareMicrobatch(tf, config, groups);
    const weights: NamedWeights = { tensors: splitFlat(tf, tf.tensor1d(initial), layout), lora: null };
    const hidden = hiddenStates(tf, config, weights, batch);
    const both = await completionLogprobs(tf, config, weights, hidden, batch, golden.temperature).data();
    expect(
      worst(
        both.filter((_, i) => i % 2 === 0),
        golden.logprobs,
      ),
    ).toBeLessThan(1e-5);
    expect(
      worst(
        both.filter((_, i) => i % 2 === 1),
        golden.entropies,
      ),
    ).toBeLessThan(1e-5);
    expect(worst(await completionValues(tf, weights, hidden, batch.predictors).data(), golden.values)).toBeLessThan(
      1e-5,
    );
  });

  for (const checkpointing of [false, true]) {
    test(`every gradient of one training step equals torch (checkpointing ${checkpointing})`, async () => {
      const flat = tf.variable(tf.tensor1d(initial));
      const batch = prepareMicrobatch(tf, config, groups);
      const { value, grads } = tf.variableGrads(() => lossOf(flat, batch, checkpointing), [flat]);
      expect(Math.abs((await value.data())[0]! - golden.loss) / Math.abs(golden.loss)).toBeLessThan(1e-5);
      const gradient = (await Object.values(grads)[0]!.data()) as Float32Array;
      const largest = Math.max(...layout.map((e) => Math.max(...golden.grads[e.name].map(Math.abs))));
      for (const entry of layout) {
        const mine = gradient.subarray(entry.offset, entry.offset + entry.size);
        const reference: number[] = golden.grads[entry.name];
        // k_proj.bias has no influence on a softmax: its gradient is rounding noise, so it is held
        // against the largest of all.
        const scale = entry.name.endsWith("k_proj.bias") ? largest : Math.max(...reference.map(Math.abs));
        const gap = Math.max(...reference.map((r, i) => Math.abs(r - mine[i]!)));
        expect(gap / scale, entry.name).toBeLessThan(1e-5);
      }
      flat.dispose();
    });
  }

  test("gradients of two microbatches add up to the gradient of one", async () => {
    const flat = tf.variable(tf.tensor1d(initial));
    const gradientOf = async (select: number[]): Promise<Float32Array> => {
      const batch = prepareMicrobatch(
        tf,
        config,
        select.map((g) => groups[g]),
      );
      const { grads } = tf.variableGrads(() => lossOf(flat, batch, false, select), [flat]);
      return (await Object.values(grads)[0]!.data()) as Float32Array;
    };
    const [whole, first, second] = [await gradientOf([0, 1]), await gradientOf([0]), await gradientOf([1])];
    expect(
      worst(
        first.map((x, i) => x + second[i]!),
        whole,
      ),
    ).toBeLessThan(1e-5);
    flat.dispose();
  });

  test.each([undefined, 7])("clipping and AdamW equal torch over two steps (part size %s)", async (partSize) => {
    const flat = tf.variable(tf.tensor1d(initial));
    const gradient = tf.tensor1d(layout.flatMap((entry) => golden.grads[entry.name]));
    const { learningRate } = golden.adam;
    const optimizer = new AdamW(tf, flat, layout, adam, undefined, null, partSize);
    const norm = await optimizer.update(gradient, learningRate);
    expect(Math.abs(norm / golden.grad_norm - 1)).toBeLessThan(1e-5);
    const reference = (step: Record<string, number[]>): number[] => layout.flatMap((entry) => step[entry.name]!);
    expect(worst(await flat.data(), reference(golden.after))).toBeLessThan(1e-5);
    await optimizer.update(gradient, learningRate);
    expect(worst(await flat.data(), reference(golden.after2))).toBeLessThan(1e-5);
    optimizer.dispose();
    flat.dispose();
  });

  test("a gradient that is not finite changes nothing", async () => {
    const flat = tf.variable(tf.tensor1d([1, 2]));
    const optimizer = new AdamW(tf, flat, packShapes([["a.weight", [2]]]), adam);
    expect(await optimizer.update(tf.tensor1d([Number.NaN, 1]), 0.1)).toBeNaN();
    expect([...(await flat.data())]).toEqual([1, 2]);
    expect(optimizer.step).toBe(0);
  });

  test("no tensor is left behind by preparing and disposing a batch", () => {
    const before = tf.memory().numTensors;
    disposeBatch(tf, prepareMicrobatch(tf, config, groups, true));
    expect(tf.memory().numTensors).toBe(before);
  });
});
