import { readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs";
import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import {
  grpoLoss,
  lossMask,
  perToken,
  ppoPolicyLoss,
  valueLoss,
  zeroAdvantageIsFree,
  type Denominators,
  type GrpoOptions,
  type PolicyTokens,
  type PpoPolicyOptions,
} from "../../../src/learner/algorithms/losses.js";
import { mergeMetrics, type Loss } from "../../../src/learner/policy/loss.js";

const TOLERANCE = 1e-5;

interface GrpoCase {
  name: string;
  /** As in TRL, with ours for what TRL has no option for: see grpo_reference.py. */
  options: Partial<GrpoOptions> & {
    mask_truncated_completions?: boolean;
    stale?: boolean;
    sampler_cap?: number;
    steps_per_generation?: number;
    accumulation?: number;
  };
  /** Rows of the first optimizer step. */
  rows: number;
  loss: number;
  advantages: number[];
  itemsInBatch: number;
  metrics: Record<string, number>;
  grad: number[];
  behaviourLogprobs?: number[];
  importanceWeights?: number[];
}

interface GrpoGolden {
  inputs: {
    vocab: number;
    eos: number;
    maxCompletionLength: number;
    completions: number[][];
    logits: number[];
    oldLogprobs: number[];
    refLogprobs: number[];
  };
  cases: GrpoCase[];
}

interface PpoCase {
  name: string;
  options: { cliprange?: number; cliprange_value?: number };
  rows: number[][];
  kept: number[];
  logits: number[];
  values: number[];
  oldValues: number[];
  oldLogprobs: number[];
  advantages: number[];
  returns: number[];
  policyLoss: number;
  policyGrad: number[];
  valueLoss: number;
  valueGrad: number[];
  clipfrac: number;
  valueClipfrac: number;
  approxkl: number;
}

const read = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../golden/${name}`, import.meta.url), "utf8"));
const grpo = read("grpo.json") as GrpoGolden;
const ppo = read("ppo.json") as PpoCase[];

beforeAll(async () => {
  await tf.setBackend("cpu");
});

/** A microbatch in which the tokens' logits stand for the model. */
interface Tokens extends Omit<PolicyTokens, "logprobs" | "entropy"> {
  /** [N] token ids, [N, vocab] logits. */
  ids: number[];
  logits: number[][];
}

interface Result {
  loss: number;
  /** [N][vocab] */
  grad: number[][];
  metrics: Record<string, number>;
}

/**
 * A loss, its gradient with respect to the logits, and its metrics; checks that no tensor is left
 * behind.
 */
function evaluate(tokens: Tokens, lossOf: (policy: PolicyTokens) => Loss): Result {
  const before = tf.memory().numTensors;
  const vocab = tokens.logits[0]!.length;
  const metrics: Record<string, number> = {};
  const result = tf.tidy(() => {
    const { value, grad } = tf.valueAndGrad((logits: tf.Tensor) => {
      const logprobsOfAll = tf.logSoftmax(logits);
      const { loss, metrics: scalars } = lossOf({
        ...tokens,
        logprobs: tf.sum(tf.mul(logprobsOfAll, tf.oneHot(tf.tensor1d(tokens.ids, "int32"), vocab)), 1),
        entropy: tf.neg(tf.sum(tf.mul(tf.exp(logprobsOfAll), logprobsOfAll), 1)),
      });
      for (const [name, scalar] of Object.entries(scalars)) metrics[name] = scalar.dataSync()[0]!;
      return loss;
    })(tf.tensor2d(tokens.logits));
    return { loss: value.dataSync()[0]!, grad: grad.arraySync() as number[][], metrics };
  });
  expect(tf.memory().numTensors).toBe(before);
  return result;
}

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, scale?: number): void {
  expect(actual.length).toBe(expected.length);
  const largest = scale ?? Math.max(...Array.from(expected, Math.abs));
  const gap = Math.max(0, ...Array.from(expected, (value, i) => Math.abs(value - actual[i]!)));
  expect(gap).toBeLessThanOrEqual(TOLERANCE * largest);
}

const grpoDefaults: GrpoOptions = {
  loss_type: "dapo",
  importance_sampling_level: "token",
  importance_sampling_cap: 2,
  epsilon: 0.2,
  epsilon_high: null,
  delta: null,
  beta: 0,
  use_bias_correction_kl: true,
  entropy_coef: 0,
  max_completion_length: grpo.inputs.maxCompletionLength,
};
const ppoDefaults: PpoPolicyOptions = { cliprange: 0.2, importance_sampling_cap: 2, entropy_coef: 0 };

function chunks(flat: number[], size: number): number[][] {
  return Array.from({ length: flat.length / size }, (_, i) => flat.slice(i * size, (i + 1) * size));
}

/** The tokens of a golden case's first optimizer step. */
function goldenTokens({ options, rows, advantages, behaviourLogprobs }: GrpoCase): Tokens {
  const { completions, eos, vocab, logits, oldLogprobs, refLogprobs } = grpo.inputs;
  const step = completions.slice(0, rows);
  const rowOf = Int32Array.from(step.flatMap((ids, row) => ids.map(() => row)));
  const N = rowOf.length;
  const truncated = step.map((ids) => ids.at(-1) !== eos);
  return {
    ids: step.flat(),
    logits: chunks(logits, vocab).slice(0, N),
    oldLogprobs: options.stale ? Float32Array.from(oldLogprobs.slice(0, N)) : null,
    refLogprobs: Float32Array.from(refLogprobs.slice(0, N)),
    behaviourLogprobs: behaviourLogprobs ? Float32Array.from(behaviourLogprobs.slice(0, N)) : null,
    advantages: perToken(advantages, rowOf),
    mask: lossMask(rowOf, truncated, options.mask_truncated_completions ?? false),
    rowOf,
    numRows: rows,
  };
}

describe("GRPO loss", () => {
  it.each(grpo.cases)("and its gradient equal TRL: $name", (golden) => {
    const { options } = golden;
    const tokens = goldenTokens(golden);
    const active = tokens.mask.reduce((sum, m) => sum + m, 0);
    const steps = (options.steps_per_generation ?? 1) / (options.accumulation ?? 1);
    const denominators = { rows: golden.rows, tokens: active, generationTokens: golden.itemsInBatch / steps };
    const all: GrpoOptions = {
      ...grpoDefaults,
      ...options,
      importance_sampling_cap: options.sampler_cap ?? grpoDefaults.importance_sampling_cap,
    };
    const { loss, grad, metrics } = evaluate(tokens, (policy) => grpoLoss(tf, policy, all, denominators));

    // A loss of 0 (on-policy, rows weighted alike) is a sum of terms of about 1: it cannot be
    // closer than their rounding.
    expectClose([loss], [golden.loss], Math.max(Math.abs(golden.loss), 0.01));
    expectClose(grad.flat(), golden.grad);

    const counted = all.importance_sampling_level === "token" ? active : golden.rows;
    const means: Record<string, number> = {
      "clip_ratio/low_mean": metrics["clip_low_sum"]! / counted,
      "clip_ratio/high_mean": metrics["clip_high_sum"]! / counted,
      "clip_ratio/region_mean": metrics["clip_region_sum"]! / counted,
      entropy: metrics["entropy_sum"]! / metrics["tokens_sum"]!,
      kl: (metrics["kl_sum"] ?? 0) / metrics["tokens_sum"]!,
    };
    expect(metrics["tokens_sum"]).toBe(active);
    // TRL's counts of clipped tokens go through float32.
    for (const [name, value] of Object.entries(golden.metrics)) expect(means[name]).toBeCloseTo(value, 5);
  });

  it("reports the actor/learner ratio before the cap, which TRL's weights show capped", () => {
    const golden = grpo.cases.find((c) => c.name === "truncated weight, token level")!;
    const tokens = goldenTokens(golden);
    const raw = Array.from(tokens.oldLogprobs!, (old, t) => Math.exp(old - tokens.behaviourLogprobs![t]!));
    const cap = golden.options.sampler_cap!;
    expect(Math.max(...raw)).toBeGreaterThan(cap);
    expectClose(
      raw.map((ratio) => Math.min(cap, ratio)),
      golden.importanceWeights!,
    );
    const { metrics } = evaluate(tokens, (policy) => grpoLoss(tf, policy, grpoDefaults, denominatorsOf([tokens])));
    expect(metrics["sampling_ratio_max"]).toBeCloseTo(Math.max(...raw), 5);
    expect(metrics["sampling_ratio_sum"]).toBeCloseTo(
      raw.reduce((sum, ratio) => sum + ratio, 0),
      4,
    );
  });
});

describe("PPO losses", () => {
  it.each(ppo)("and their gradients equal TRL: $name", (golden) => {
    const rows = golden.rows.map((ids, row) => ids.map(() => golden.kept.includes(row)));
    const keep = rows.flat();
    const kept = <T>(values: T[]): T[] => values.filter((_, t) => keep[t]);
    const keptRows = golden.kept.map((row) => golden.rows[row]!);
    const mask = Float32Array.from(keptRows.flat(), () => 1);
    const tokens: Tokens = {
      ids: keptRows.flat(),
      logits: kept(chunks(golden.logits, golden.logits.length / keep.length)),
      oldLogprobs: Float32Array.from(kept(golden.oldLogprobs)),
      behaviourLogprobs: null,
      refLogprobs: null,
      advantages: Float32Array.from(golden.advantages),
      mask,
      rowOf: Int32Array.from(keptRows.flatMap((ids, row) => ids.map(() => row))),
      numRows: keptRows.length,
    };
    const denominators = denominatorsOf([tokens]);
    const options = { ...ppoDefaults, ...golden.options };
    const policy = evaluate(tokens, (input) => ppoPolicyLoss(tf, input, options, denominators));
    expectClose([policy.loss], [golden.policyLoss]);
    expectClose(policy.grad.flat(), golden.policyGrad);
    expect(policy.metrics["clip_region_sum"]! / mask.length).toBeCloseTo(golden.clipfrac, 6);
    expect(policy.metrics["approxkl_sum"]! / mask.length).toBeCloseTo(golden.approxkl, 6);

    const critic = {
      oldValues: Float32Array.from(kept(golden.oldValues)),
      returns: Float32Array.from(golden.returns),
      mask,
    };
    const range = { cliprange_value: golden.options.cliprange_value ?? 0.2 };
    let clipped = NaN;
    const { value, grad } = tf.valueAndGrad((values: tf.Tensor) => {
      const { loss, metrics } = valueLoss(tf, { values: values as tf.Tensor1D, ...critic }, range, denominators);
      clipped = metrics["value_clip_sum"]!.dataSync()[0]!;
      return loss;
    })(tf.tensor1d(kept(golden.values)));
    expectClose([value.dataSync()[0]!], [golden.valueLoss]);
    expectClose(grad.dataSync(), golden.valueGrad);
    expect(clipped / mask.length).toBeCloseTo(golden.valueClipfrac, 6);
  });

  it("an unmoved value function has nothing clipped, to the last bit", () => {
    const values = tf.tensor1d([0.1, 1 / 3, -7.7]);
    const oldValues = values.dataSync() as Float32Array;
    const returns = Float32Array.of(3, -2, 5);
    const { metrics } = valueLoss(
      tf,
      { values, oldValues, returns, mask: Float32Array.of(1, 1, 1) },
      { cliprange_value: 0.2 },
      { tokens: 3 },
    );
    expect(metrics["value_clip_sum"]!.dataSync()[0]).toBe(0);
  });

  it("is GRPO's bnpo loss when both are given the same advantages and clip range", () => {
    fc.assert(
      fc.property(batch, (tokens) => {
        const denominators = denominatorsOf([tokens]);
        const one = evaluate(tokens, (policy) => ppoPolicyLoss(tf, policy, ppoDefaults, denominators));
        expect(one.metrics["approxkl_sum"]).toBeGreaterThanOrEqual(0);
        const { approxkl_sum: _, ...shared } = one.metrics;
        const other = evaluate(tokens, (policy) =>
          grpoLoss(tf, policy, { ...grpoDefaults, loss_type: "bnpo" }, denominators),
        );
        expectSame({ ...one, metrics: shared }, other);
      }),
      { numRuns: 10 },
    );
  });
});

// ---- properties

const VOCAB = 4;
const logit = fc.integer({ min: -64, max: 64 }).map((n) => n / 32);
const drift = fc.integer({ min: -32, max: 32 }).map((n) => n / 64);
const token = fc.record({
  id: fc.nat(VOCAB - 1),
  logits: fc.array(logit, { minLength: VOCAB, maxLength: VOCAB }),
  old: drift,
  ref: drift,
  behaviour: drift,
});
type Token = typeof token extends fc.Arbitrary<infer T> ? T : never;
interface Row {
  tokens: Token[];
  advantage: number;
  masked: boolean;
}
const rowArbitrary: fc.Arbitrary<Row> = fc.record({
  tokens: fc.array(token, { minLength: 1, maxLength: 4 }),
  advantage: fc.integer({ min: -20, max: 20 }).map((n) => n / 8),
  masked: fc.boolean(),
});
const rowsArbitrary = fc.array(rowArbitrary, { minLength: 2, maxLength: 5 });

const options: fc.Arbitrary<GrpoOptions> = fc.record({
  loss_type: fc.constantFrom("grpo", "bnpo", "dr_grpo", "dapo"),
  importance_sampling_level: fc.constantFrom("token", "sequence"),
  importance_sampling_cap: fc.constantFrom(1.2, 2),
  epsilon: fc.constant(0.2),
  epsilon_high: fc.constantFrom(null, 0.28),
  delta: fc.constantFrom(null, 1.5),
  beta: fc.constantFrom(0, 0.04),
  use_bias_correction_kl: fc.boolean(),
  entropy_coef: fc.constantFrom(0, 0.01),
  max_completion_length: fc.constant(5),
});

function pack(rows: Row[]): Tokens {
  const flat = rows.flatMap((row, index) => row.tokens.map((t) => ({ ...t, row, index })));
  // Old, reference and behaviour log-probabilities lie around the policy's own.
  const own = flat.map(({ logits, id }) => logits[id]! - Math.log(logits.reduce((sum, z) => sum + Math.exp(z), 0)));
  return {
    ids: flat.map(({ id }) => id),
    logits: flat.map(({ logits }) => logits),
    oldLogprobs: Float32Array.from(flat, ({ old }, t) => own[t]! + old),
    refLogprobs: Float32Array.from(flat, ({ ref }, t) => own[t]! + ref),
    behaviourLogprobs: Float32Array.from(flat, ({ behaviour }, t) => own[t]! + behaviour),
    advantages: Float32Array.from(flat, ({ row }) => row.advantage),
    mask: Float32Array.from(flat, ({ row }) => (row.masked ? 0 : 1)),
    rowOf: Int32Array.from(flat, ({ index }) => index),
    numRows: rows.length,
  };
}

const batch = rowsArbitrary.map(pack);

function denominatorsOf(microbatches: Tokens[]): Denominators {
  const rows = microbatches.reduce((sum, { numRows }) => sum + numRows, 0);
  const tokens = microbatches.reduce((sum, { mask }) => sum + mask.reduce((a, b) => a + b, 0), 0);
  return { rows, tokens, generationTokens: tokens / 2 };
}

/** Tokens at these places, in this order. */
function take(tokens: Tokens, places: number[]): Tokens {
  const pick = (values: Float32Array | null) => values && Float32Array.from(places, (t) => values[t]!);
  return {
    ids: places.map((t) => tokens.ids[t]!),
    logits: places.map((t) => tokens.logits[t]!),
    oldLogprobs: pick(tokens.oldLogprobs),
    refLogprobs: pick(tokens.refLogprobs),
    behaviourLogprobs: pick(tokens.behaviourLogprobs),
    advantages: pick(tokens.advantages)!,
    mask: pick(tokens.mask)!,
    rowOf: Int32Array.from(places, (t) => tokens.rowOf[t]!),
    numRows: tokens.numRows,
  };
}

/**
 * Equal up to the rounding of float32 sums taken in another order; gradients have terms of at most
 * about 20 here.
 */
function expectSame(one: Result, other: Result): void {
  const size = Math.max(0.1, ...one.grad.flat().map(Math.abs), Math.abs(one.loss));
  expectClose([other.loss], [one.loss], size);
  expectClose(other.grad.flat(), one.grad.flat(), size);
  for (const [name, value] of Object.entries(one.metrics)) expect(other.metrics[name]).toBeCloseTo(value, 3);
}

describe("properties of the GRPO loss", () => {
  it("padding with masked tokens, of any content, changes no loss, gradient or metric", () => {
    fc.assert(
      fc.property(rowsArbitrary, rowArbitrary, options, (rows, padding, option) => {
        const plain = pack(rows);
        const padded = pack([...rows, { ...padding, masked: true }]);
        // The padding belongs to the first completion, as padding at its end would.
        const rowOf = padded.rowOf.map((row) => (row === rows.length ? 0 : row));
        const denominators = denominatorsOf([plain]);
        const lossOf = (policy: PolicyTokens): Loss => grpoLoss(tf, policy, option, denominators);
        const without = evaluate(plain, lossOf);
        const within = evaluate({ ...padded, rowOf, numRows: rows.length }, lossOf);
        const N = plain.ids.length;
        for (const gradient of within.grad.slice(N)) expect(gradient.every((g) => g === 0)).toBe(true);
        expectSame(without, { ...within, grad: within.grad.slice(0, N) });
      }),
      { numRuns: 40 },
    );
  });

  it("permuting the tokens of a batch permutes its gradient and changes nothing else", () => {
    const shuffled = batch.chain((tokens) =>
      fc.tuple(
        fc.constant(tokens),
        fc.shuffledSubarray([...tokens.ids.keys()], { minLength: tokens.ids.length, maxLength: tokens.ids.length }),
      ),
    );
    fc.assert(
      fc.property(shuffled, options, ([tokens, order], option) => {
        const lossOf = (policy: PolicyTokens): Loss => grpoLoss(tf, policy, option, denominatorsOf([tokens]));
        const straight = evaluate(tokens, lossOf);
        const permuted = evaluate(take(tokens, order), lossOf);
        expectSame({ ...straight, grad: order.map((t) => straight.grad[t]!) }, permuted);
      }),
      { numRuns: 40 },
    );
  });

  it("one large batch equals several accumulated small ones", () => {
    fc.assert(
      fc.property(rowsArbitrary, options, fc.nat(), (rows, option, where) => {
        const cut = 1 + (where % (rows.length - 1));
        const large = pack(rows);
        const denominators = denominatorsOf([large]);
        const lossOf = (policy: PolicyTokens): Loss => grpoLoss(tf, policy, option, denominators);
        const first = evaluate(pack(rows.slice(0, cut)), lossOf);
        const second = evaluate(pack(rows.slice(cut)), lossOf);
        expectSame(evaluate(large, lossOf), {
          loss: first.loss + second.loss,
          grad: [...first.grad, ...second.grad],
          metrics: mergeMetrics(first.metrics, second.metrics),
        });
      }),
      { numRuns: 40 },
    );
  });

  it("leaving out completions with advantage 0 changes nothing, where the loss has no other term", () => {
    fc.assert(
      fc.property(rowsArbitrary, rowArbitrary, options, (rows, idle, option) => {
        const free = { ...option, beta: 0, entropy_coef: 0 };
        const everything = [...rows, { ...idle, advantage: 0 }];
        const denominators = denominatorsOf([pack(everything)]);
        const lossOf = (policy: PolicyTokens): Loss => grpoLoss(tf, policy, free, denominators);
        const whole = evaluate(pack(everything), lossOf);
        const skipped = evaluate(pack(rows), lossOf);
        const N = skipped.grad.length;
        for (const gradient of whole.grad.slice(N)) expect(gradient.every((g) => g === 0)).toBe(true);
        const { clip_low_sum, clip_high_sum, clip_region_sum } = skipped.metrics;
        const metrics = {
          clip_low_sum: clip_low_sum!,
          clip_high_sum: clip_high_sum!,
          clip_region_sum: clip_region_sum!,
        };
        expectSame({ ...skipped, metrics }, { ...whole, grad: whole.grad.slice(0, N) });
      }),
      { numRuns: 30 },
    );
    expect(zeroAdvantageIsFree({ beta: 0, entropy_coef: 0 })).toBe(true);
    expect(zeroAdvantageIsFree({ beta: 0.04, entropy_coef: 0 })).toBe(false);
    expect(zeroAdvantageIsFree({ beta: 0, entropy_coef: 0.01 })).toBe(false);
  });

  it("old_logprobs null is the policy itself, with its gradient", () => {
    fc.assert(
      fc.property(rowsArbitrary, options, (rows, option) => {
        const onPolicy = rows.map((row) => ({ ...row, tokens: row.tokens.map((t) => ({ ...t, old: 0 })) }));
        const tokens = pack(onPolicy);
        const lossOf = (policy: PolicyTokens): Loss => grpoLoss(tf, policy, option, denominatorsOf([tokens]));
        expectSame(evaluate(tokens, lossOf), evaluate({ ...tokens, oldLogprobs: null }, lossOf));
      }),
      { numRuns: 30 },
    );
  });

  it("a step whose every token is masked has loss 0 and gradient 0, not 0 / 0", () => {
    const golden = goldenTokens(grpo.cases[0]!);
    const tokens = { ...golden, mask: golden.mask.map(() => 0) };
    for (const loss_type of ["grpo", "bnpo", "dr_grpo", "dapo"] as const) {
      for (const importance_sampling_level of ["token", "sequence"] as const) {
        const option = { ...grpoDefaults, loss_type, importance_sampling_level, beta: 0.1, entropy_coef: 0.1 };
        const { loss, grad } = evaluate(tokens, (policy) => grpoLoss(tf, policy, option, denominatorsOf([tokens])));
        expect(Math.abs(loss)).toBe(0);
        expect(grad.flat().every((g) => g === 0)).toBe(true);
      }
    }
  });

  it("names what is missing when a term lacks its input", () => {
    const tokens = { ...goldenTokens(grpo.cases[0]!), refLogprobs: null };
    const run = (option: Partial<GrpoOptions>, entropy: boolean): Result =>
      evaluate(tokens, (policy) =>
        grpoLoss(
          tf,
          entropy ? policy : { ...policy, entropy: null },
          { ...grpoDefaults, ...option },
          denominatorsOf([tokens]),
        ),
      );
    expect(() => run({ beta: 0.1 }, true)).toThrow(/reference log-probabilities/);
    expect(() => run({ entropy_coef: 0.1 }, false)).toThrow(/entropies/);
  });
});

describe("mergeMetrics", () => {
  it("adds sums and keeps the largest of …_max", () => {
    const merged = mergeMetrics({ kl_sum: 1, ratio_max: 2 }, { kl_sum: 2, ratio_max: 1.5, entropy_sum: 4 });
    expect(merged).toEqual({ kl_sum: 3, ratio_max: 2, entropy_sum: 4 });
  });
});
