/**
 * The properties of the learner's primitives and of a whole training step, to be shown on one
 * backend.
 */
import type { Tensor, Tensor2D, TensorContainer } from "@tensorflow/tfjs";
import * as fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { type BackendName, type TF, startBackend } from "../../src/learner/backend/backend.js";
import { packGroups, type SequenceGroup } from "../../src/learner/policy/packing.js";
import { disposeBatch, hiddenStates, prepareMicrobatch } from "../../src/learner/policy/policy.js";
import { splitFlat } from "../../src/learner/policy/named-weights.js";
import { numConstants } from "../../src/learner/backend/scalars.js";
import { plus, product, rmsNorm, rotary, rotaryTables, swiGlu } from "../../src/learner/policy/primitives.js";
import { tokenLogprobs } from "../../src/learner/policy/token-logprobs.js";
import { attention, attentionTensors } from "../../src/learner/policy/attention.js";
import { layoutSize, packShapes, weightLayout } from "../../src/model/layout.js";
import { loraLayout } from "../../src/model/lora.js";
import { Draw } from "../../src/math/random.js";
import { plainAttention, plainRmsNorm, plainRotary, plainSwiGlu, plainTokenLogprobs } from "./primitives-plain.js";
import { relativeGap, tinyBatch, tinyConfig, tinyLearner, tinyRun, tinyWeights } from "./tiny.js";

type Op = (...inputs: Tensor[]) => Tensor;

/** Largest gap of a value or gradient, relative to the twin's largest entry. */
const TOLERANCE = 1e-5;

export function primitivesSuite(backend: BackendName): void {
  let tf: TF;
  beforeAll(async () => {
    ({ tf } = await startBackend(backend, 1));
  });

  /** Tensors but for the constants, which are made once and stay. */
  const numOthers = (): number => tf.memory().numTensors - numConstants();

  /** Value, and the gradient of Σ cos(i)·value_i in every input. */
  function evaluate(op: Op, inputs: readonly { shape: number[]; values: Float32Array }[]): Float32Array[] {
    return tf.tidy(() => {
      const tensors = inputs.map(({ shape, values }) => tf.tensor(values, shape));
      const value = op(...tensors);
      const weights = tf.tensor(
        Float32Array.from({ length: value.size }, (_, i) => Math.cos(i)),
        value.shape,
      );
      const gradients = tf.grads((...x: Tensor[]) => tf.sum(tf.mul(op(...x), weights)))(tensors);
      return [value, ...gradients].map((x) => Float32Array.from(x.dataSync()));
    });
  }

  function expectTwins(primitive: Op, twin: Op, shapes: number[][], seed: number): void {
    const draw = new Draw(seed);
    const inputs = shapes.map((shape) => ({
      shape,
      values: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 4 * draw.unit() - 2),
    }));
    const before = numOthers();
    const found = evaluate(primitive, inputs);
    evaluate(twin, inputs).forEach((expected, i) => {
      const name = i === 0 ? "value" : `gradient of input ${i - 1}`;
      // Inputs and weights are of order 1: a result far below 1 is a difference of larger numbers
      // (a softmax over one key has no gradient but rounding).
      expect(relativeGap(found[i]!, expected, 1), name).toBeLessThan(TOLERANCE);
    });
    expect(numOthers()).toBe(before);
  }

  const seed = fc.integer({ min: 0, max: 2 ** 31 });
  const size = fc.integer({ min: 1, max: 6 });

  describe(`primitives equal their plain twins, value and gradients (${backend})`, () => {
    test("rmsNorm, of a trained and of a frozen weight", () => {
      fc.assert(
        fc.property(size, fc.integer({ min: 2, max: 9 }), seed, (n, h, seed) => {
          expectTwins(
            (x, w) => rmsNorm(tf, x!, w!, 1e-6),
            (x, w) => plainRmsNorm(tf, x!, w!, 1e-6),
            [[n, h], [h]],
            seed,
          );
          const frozen = tf.tensor(tinyWeights(packShapes([["w", [h]]]), seed));
          expectTwins(
            (x) => rmsNorm(tf, x!, frozen, 1e-6, true),
            (x) => plainRmsNorm(tf, x!, frozen, 1e-6),
            [[n, h]],
            seed,
          );
          frozen.dispose();
        }),
        { numRuns: 20 },
      );
    });

    test.each(["another array", "a bias"])("plus, of trained and frozen: %s", (kind) => {
      fc.assert(
        fc.property(size, size, seed, (n, width, seed) => {
          const other = kind === "a bias" ? [width] : [n, width];
          const twin: Op = (a, b) => tf.add(a!, b!);
          expectTwins((a, b) => plus(tf, a!, b!), twin, [[n, width], other], seed);
          const frozen = tf.tensor(tinyWeights(packShapes([["b", other]]), seed), other);
          expectTwins(
            (a) => plus(tf, a!, frozen, true),
            (a) => twin(a!, frozen),
            [[n, width]],
            seed,
          );
          frozen.dispose();
        }),
        { numRuns: 10 },
      );
    });

    test("product, of a trained and of a frozen weight", () => {
      fc.assert(
        fc.property(size, size, size, seed, (n, inputs, outputs, seed) => {
          const twin: Op = (x, w) => tf.matMul(x as Tensor2D, tf.transpose(w as Tensor2D));
          const shapes = [
            [n, inputs],
            [outputs, inputs],
          ];
          expectTwins((x, w) => product(tf, x!, w!), twin, shapes, seed);
          const frozen = tf.tensor(tinyWeights(packShapes([["w", shapes[1]!]]), seed), shapes[1]);
          expectTwins(
            (x) => product(tf, x!, frozen, true),
            (x) => twin(x!, frozen),
            shapes.slice(0, 1),
            seed,
          );
          frozen.dispose();
        }),
        { numRuns: 20 },
      );
    });

    test("swiGlu", () => {
      fc.assert(
        fc.property(size, size, seed, (n, i, seed) => {
          expectTwins(
            (g, u) => swiGlu(tf, g!, u!),
            (g, u) => plainSwiGlu(tf, g!, u!),
            [
              [n, i],
              [n, i],
            ],
            seed,
          );
        }),
        { numRuns: 20 },
      );
    });

    test("rotary, positions in any order", () => {
      const positions = fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 6 });
      fc.assert(
        fc.property(
          positions,
          fc.integer({ min: 1, max: 3 }),
          fc.constantFrom(2, 4, 8),
          seed,
          (list, heads, D, seed) => {
            const at = Int32Array.from(list);
            const tables = rotaryTables(tf, at, { headDim: D, ropeTheta: 10_000 }, heads);
            expectTwins(
              (x) => rotary(tf, x!, tables),
              (x) => plainRotary(tf, x!, at, D, 10_000),
              [[at.length, heads * D]],
              seed,
            );
            tf.dispose([tables.cos, tables.sin, tables.rotate]);
          },
        ),
        { numRuns: 15 },
      );
    });

    test("attention over packed groups: prompts, groups and completions of any lengths", () => {
      const groups = fc.array(
        fc.record({ prompt: size, completions: fc.array(size, { minLength: 1, maxLength: 4 }) }),
        { minLength: 1, maxLength: 3 },
      );
      fc.assert(
        fc.property(
          groups,
          fc.constantFrom([1, 1], [2, 2], [4, 2], [3, 1]),
          fc.boolean(),
          seed,
          (spec, [Hq, Hk], keepLast, seed) => {
            attentionTwins(spec, Hq!, Hk!, keepLast, seed);
          },
        ),
        {
          numRuns: 20,
          examples: [
            [
              [
                { prompt: 5, completions: [4, 1, 6] },
                { prompt: 2, completions: [3] },
              ],
              [4, 2],
              false,
              1,
            ],
            [[{ prompt: 3, completions: [1, 1] }], [4, 2], false, 2], // no completion token is an input
          ],
        },
      );
    });

    function attentionTwins(
      spec: { prompt: number; completions: number[] }[],
      numHeads: number,
      numKvHeads: number,
      keepLast: boolean,
      seed: number,
    ): void {
      const D = 4;
      const groups: SequenceGroup[] = spec.map(({ prompt, completions }) => ({
        promptIds: new Int32Array(prompt),
        completions: completions.map((length) => new Int32Array(length)),
      }));
      const packed = packGroups(groups, { numHeads, numKvHeads }, keepLast);
      const plan = attentionTensors(tf, packed.attention);
      const N = packed.ids.length;
      expectTwins(
        (q, k, v) => attention(tf, q!, k!, v!, plan, D),
        (q, k, v) => plainAttention(tf, q!, k!, v!, groups, D, keepLast),
        [
          [N, numHeads * D],
          [N, numKvHeads * D],
          [N, numKvHeads * D],
        ],
        seed,
      );
      const { plan: _plan, ...tensors } = plan;
      tf.dispose(tensors as unknown as TensorContainer);
    }

    test("tokenLogprobs, in chunks of any size, with the entropy's gradient", () => {
      const shape = fc.record({
        M: fc.integer({ min: 1, max: 8 }),
        H: size,
        V: fc.integer({ min: 2, max: 9 }),
        chunk: size,
      });
      fc.assert(
        fc.property(shape, fc.constantFrom(0.5, 1, 1.7), seed, ({ M, H, V, chunk }, temperature, seed) => {
          const targets = Int32Array.from({ length: M }, (_, i) => (seed + 3 * i) % V);
          expectTwins(
            (h, head) =>
              tokenLogprobs(tf, h!, head!, targets, temperature, { gradientOf: "both" as const, maxLogits: chunk * V }),
            (h, head) => plainTokenLogprobs(tf, h!, head!, targets, temperature),
            [
              [M, H],
              [V, H],
            ],
            seed,
          );
        }),
        { numRuns: 20 },
      );
    });

    test("tokenLogprobs with a frozen head gives the states' gradient alone", () => {
      const targets = Int32Array.of(0, 4, 2);
      const head = tf.tensor2d(tinyWeights(packShapes([["x", [5, 4]]])), [5, 4]);
      const options = { gradientOf: "both" as const, frozenHead: true, maxLogits: 5 };
      expectTwins(
        (h) => tokenLogprobs(tf, h!, head, targets, 0.7, options),
        (h) => plainTokenLogprobs(tf, h!, head, targets, 0.7),
        [[3, 4]],
        1,
      );
      head.dispose();
    });

    test("tokenLogprobs without the entropy's gradient carries that of the log-probabilities alone", () => {
      const targets = Int32Array.of(0, 4, 2);
      const inputs = [
        [3, 4],
        [5, 4],
      ].map((shape) => ({ shape, values: tinyWeights(packShapes([["x", shape]])) }));
      const found = evaluate(
        (h, head) => tokenLogprobs(tf, h!, head!, targets, 0.7, { gradientOf: "logprobs" }),
        inputs,
      );
      // evaluate's loss weighs the entropies too (odd entries of cos(i)); the twin's has the
      // log-probabilities alone.
      const zeroEntropy = tf.tensor2d([1, 0], [1, 2]);
      const twin: Op = (h, head) => tf.mul(plainTokenLogprobs(tf, h!, head!, targets, 0.7), zeroEntropy);
      const expected = evaluate(twin, inputs);
      expect(relativeGap(found[1]!, expected[1]!)).toBeLessThan(TOLERANCE);
      expect(relativeGap(found[2]!, expected[2]!)).toBeLessThan(TOLERANCE);
      // A frozen head has a gradient function of its own here.
      for (const maxLogits of [5, 10, 100]) {
        const head = tf.tensor2d(inputs[1]!.values, [5, 4]);
        const options = { gradientOf: "logprobs" as const, frozenHead: true, maxLogits };
        const frozen = evaluate((h) => tokenLogprobs(tf, h!, head, targets, 0.7, options), inputs.slice(0, 1));
        expect(relativeGap(frozen[0]!, found[0]!)).toBeLessThan(TOLERANCE);
        expect(relativeGap(frozen[1]!, expected[1]!)).toBeLessThan(TOLERANCE);
        head.dispose();
      }
      zeroEntropy.dispose();
    });

    test.each([
      ["full", null],
      ["LoRA", { scale: 2, dropout: null }],
      ["LoRA with dropout", { scale: 2, dropout: { rate: 0.5, seed: "s" } }],
    ])("checkpointed blocks equal kept ones: %s", (_, lora) => {
      const base = weightLayout(tinyConfig);
      const layout =
        lora === null
          ? base
          : loraLayout(tinyConfig, { r: 2, target_modules: ["q_proj", "v_proj", "o_proj", "down_proj"] });
      const packed = tf.tensor1d(tinyWeights());
      const frozen = lora === null ? null : splitFlat(tf, packed, base);
      const groups = tinyBatch().groups.map(({ completions }) => ({
        promptIds: Int32Array.of(1, 2, 3),
        completions: completions.map(({ ids }) => ids),
      }));
      const batch = prepareMicrobatch(tf, tinyConfig, groups);
      const states = (checkpointing: boolean, maxMlp?: number): Op => {
        return (flat) => {
          const tensors = new Map([...(frozen ?? []), ...splitFlat(tf, flat!, layout)]);
          return hiddenStates(tf, tinyConfig, { tensors, lora }, batch, checkpointing, maxMlp);
        };
      };
      const input = [{ shape: [layoutSize(layout)], values: tinyWeights(layout, 2) }];
      const [value, gradient] = evaluate(states(true), input);
      const [expectedValue, expectedGradient] = evaluate(states(false), input);
      expect([...value!]).toEqual([...expectedValue!]);
      // Parts of other sizes drop other inputs, but each as often; without dropout they change
      // rounding alone.
      for (const rows of lora?.dropout ? [] : [1, 7]) {
        const [inParts, gradientInParts] = evaluate(states(true, rows * tinyConfig.intermediateSize), input);
        expect(relativeGap(inParts!, expectedValue!)).toBeLessThan(TOLERANCE);
        expect(relativeGap(gradientInParts!, expectedGradient!)).toBeLessThan(TOLERANCE);
      }
      for (const { name, offset, size } of layout) {
        const [found, expected] = [gradient!, expectedGradient!].map((x) => x.subarray(offset, offset + size));
        // A softmax does not see k's bias: its gradient is rounding noise, held against the largest
        // of all.
        const largest = name.endsWith("k_proj.bias")
          ? Math.max(...expectedGradient!.map(Math.abs))
          : Math.max(...expected!.map(Math.abs));
        expect(Math.max(...found!.map((x, i) => Math.abs(x - expected![i]!))), name).toBeLessThanOrEqual(
          TOLERANCE * largest,
        );
        expect(largest, name).toBeGreaterThan(0);
      }
      tf.dispose([packed, ...(frozen?.values() ?? [])]);
      disposeBatch(tf, batch);
    });
  });

  describe(`a training step leaves no tensor behind (${backend})`, () => {
    const algorithms = {
      grpo: { algo: "grpo", beta: 0.04, entropy_coef: 0.01 },
      "ppo, shared value": {
        algo: "ppo",
        kl_coef: 0.05,
        num_ppo_epochs: 1,
        num_mini_batches: 2,
        bootstrap_truncated: true,
      },
      "ppo, separate value": { algo: "ppo", kl_coef: 0.05, num_ppo_epochs: 1, value_model: "separate" },
    } as const;
    for (const [name, algorithm] of Object.entries(algorithms)) {
      for (const enabled of [false, true]) {
        test(`${name}, ${enabled ? "LoRA" : "full"}, 50 iterations`, async () => {
          const run = tinyRun({
            ...algorithm,
            model: { gradient_checkpointing: enabled },
            lora: { enabled, r: 2, lora_dropout: 0.1 },
            tokens_per_microbatch: 1_000,
            weight_decay: 0.01,
          });
          const started = numOthers();
          const { updater, dispose } = tinyLearner(tf, run);
          const batches = [tinyBatch({ groups: 2 }), tinyBatch({ groups: 2, seed: 2 })];
          await updater.update(batches[0]!, 0);
          const before = numOthers();
          for (let i = 1; i < 50; i++) {
            await updater.update(batches[i % 2]!, i);
            expect(numOthers(), `iteration ${i}`).toBe(before);
          }
          expect(updater.policy.optimizer.step).toBe(run.algo === "ppo" ? 50 * run.num_mini_batches : 50);
          expect(updater.policy.skippedUpdates).toBe(0);
          dispose();
          expect(numOthers()).toBe(started);
        }, 240_000); // TensorFlow is slow at tiny steps on a busy machine
      }
    }
  });
}
