import { existsSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { startBackend, type TF } from "../../src/learner/backend.js";
import { NativeAdam } from "../../src/learner/native-adam.js";
import { nativeBindingPath } from "../../src/learner/native-binding.js";

const options = { beta1: 0.9, beta2: 0.99, epsilon: 1e-3 }; // an epsilon large enough to be seen in the result

/** torch.optim.AdamW for one parameter, in double precision: the parameter after each gradient. */
function adamW(parameter: number, gradients: number[], learningRate: number, weightDecay: number): number[] {
  let [p, m, v] = [parameter, 0, 0];
  return gradients.map((g, i) => {
    p -= learningRate * weightDecay * p;
    m = options.beta1 * m + (1 - options.beta1) * g;
    v = options.beta2 * v + (1 - options.beta2) * g * g;
    const denominator = Math.sqrt(v / (1 - options.beta2 ** (i + 1))) + options.epsilon;
    return (p -= (learningRate * m) / (1 - options.beta1 ** (i + 1)) / denominator);
  });
}

describe.skipIf(!existsSync(nativeBindingPath()))("NativeAdam (needs the native binding: npm run setup)", () => {
  let tf: TF;
  beforeAll(async () => void ({ tf } = await startBackend("tensorflow", 1)));

  const gradients = [0.3, -0.02, 0.001, 2, -0.5, 0.3].map((g) => [g, g * 1e-3, -g * g, 0]);
  const direction = (adam: NativeAdam, step: number) =>
    tf.tidy(() => [
      ...adam
        .direction(tf.tensor1d(gradients[step - 1]!), step, options.beta1, options.beta2, options.epsilon)
        .dataSync(),
    ]);

  test("with decoupled decay it equals AdamW worked in double precision", () => {
    const [learningRate, weightDecay] = [0.1, 0.3];
    const start = [1, -2, 0.5, 3];
    const adam = new NativeAdam(tf, [4]);
    let p = start;
    for (let step = 1; step <= gradients.length; step++) {
      const d = direction(adam, step);
      p = p.map((x, i) => x * (1 - learningRate * weightDecay) - learningRate * d[i]!);
      const expected = start.map((x, i) => adamW(x, gradients.map((g) => g[i]!), learningRate, weightDecay)[step - 1]!); // prettier-ignore
      p.forEach((x, i) => expect(x).toBeCloseTo(expected[i]!, 5));
    }
    adam.dispose();
  });

  test("moments restored elsewhere continue exactly", () => {
    const [first, second] = [new NativeAdam(tf, [4]), new NativeAdam(tf, [4])];
    for (let step = 1; step <= 3; step++) direction(first, step);
    second.restore(...first.moments());
    for (let step = 4; step <= 6; step++) expect(direction(second, step)).toEqual(direction(first, step));
    first.dispose();
    second.dispose();
  });

  test("a result handed out is not changed by later steps", () => {
    const adam = new NativeAdam(tf, [4]);
    const g = tf.tensor1d([1, 2, 3, 4]);
    const early = adam.direction(g, 1, options.beta1, options.beta2, options.epsilon);
    const [m, v] = adam.moments();
    const before = [[...early.dataSync()], [...m.dataSync()]];
    direction(adam, 2);
    expect([[...early.dataSync()], [...m.dataSync()]]).toEqual(before);
    tf.dispose([g, early, m, v]);
    adam.dispose();
  });

  test("steps leave no tensors, and dispose gives back all", () => {
    const before = tf.memory().numTensors;
    const adam = new NativeAdam(tf, [4]);
    const held = tf.memory().numTensors;
    direction(adam, 1);
    expect(tf.memory().numTensors).toBe(held);
    adam.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });
});
