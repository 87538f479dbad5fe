/** Properties of whole training iterations on a tiny model, at the level of `Updater`. */
import type { Scalar, Tensor1D } from "@tensorflow/tfjs";
import * as fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import type { RunConfig } from "../../../src/config/schema.js";
import { UserError } from "../../../src/errors.js";
import { groupAdvantages, ppoAdvantages } from "../../../src/learner/algorithms/advantages.js";
import { startBackend, type TF } from "../../../src/learner/backend/backend.js";
import { grpoLoss, lossMask, perToken, ppoPolicyLoss, valueLoss } from "../../../src/learner/algorithms/losses.js";
import {
  completionLogprobs,
  completionValues,
  disposeBatch,
  hiddenStates,
  prepareMicrobatch,
} from "../../../src/learner/policy/policy.js";
import type { TrainingBatch } from "../../../src/learner/rollouts/rollout-source.js";
import type { LayoutEntry } from "../../../src/model/layout.js";
import { relativeGap, tinyBatch, tinyConfig, tinyLearner, tinyRun, tinyWeights } from "../../support/tiny.js";

let tf: TF;
beforeAll(async () => {
  ({ tf } = await startBackend("cpu", 0));
});

type Overrides = Parameters<typeof tinyRun>[0];

/** Every parameter (value heads and adapters too) starts from a value of its own. */
const startAt = (layout: readonly LayoutEntry[]): Float32Array => tinyWeights(layout, 5);

/** How far each parameter moved, and the metrics of the last update. */
async function train(overrides: Overrides, batches: readonly TrainingBatch[]) {
  const { model, updater, dispose } = tinyLearner(tf, tinyRun(overrides), startAt);
  let metrics: Record<string, number> = {};
  for (const [iteration, batch] of batches.entries()) ({ metrics } = await updater.update(batch, iteration));
  const before = startAt(model.layout);
  const moved = Float32Array.from(await model.flat.data(), (x, i) => x - before[i]!);
  const { layout, publishedSize } = model;
  dispose();
  return { moved, metrics, layout, publishedSize };
}

/** Two runs moved the parameters alike: they differ by less than 1e-4 of the largest move. */
function expectSameMoves(found: Float32Array, expected: Float32Array): void {
  expect(Math.max(...expected.map(Math.abs))).toBeGreaterThan(1e-3);
  expect(relativeGap(found, expected)).toBeLessThan(1e-4);
}

const grpoVariants: [string, Overrides][] = [
  ["grpo", { loss_type: "grpo", beta: 0.04 }],
  ["bnpo, sequence ratios", { loss_type: "bnpo", importance_sampling_level: "sequence", num_iterations: 2 }],
  ["dr_grpo, entropy bonus, scale none", { loss_type: "dr_grpo", entropy_coef: 0.01, scale_rewards: "none" }],
  ["dapo, masked truncated", { loss_type: "dapo", mask_truncated_completions: true, scale_rewards: "batch" }],
  ["grpo with LoRA", { loss_type: "grpo", beta: 0.04, lora: { enabled: true, r: 2 } }],
];
const ppoVariants: [string, Overrides][] = [
  ["ppo, shared value", { algo: "ppo", kl_coef: 0.05, num_ppo_epochs: 2, bootstrap_truncated: true }],
  ["ppo, separate value", { algo: "ppo", num_ppo_epochs: 2, value_model: "separate", entropy_coef: 0.01 }],
  ["ppo with LoRA", { algo: "ppo", kl_coef: 0.05, num_ppo_epochs: 1, lora: { enabled: true, r: 2 } }],
];
const variants = [...grpoVariants, ...ppoVariants];

describe("how a batch is cut or ordered does not matter", () => {
  test.each(variants)("one large microbatch = one for each group: %s", async (_, overrides) => {
    // Two optimizer steps an iteration, so that denominators of a step differ from those of the
    // batch.
    const steps = overrides!.algo === "ppo" ? { num_mini_batches: 2 } : { steps_per_generation: 2 };
    const whole = await train({ ...overrides, ...steps, tokens_per_microbatch: 1_000_000 }, [tinyBatch()]);
    const parts = await train({ ...overrides, ...steps, tokens_per_microbatch: 1 }, [tinyBatch()]);
    expectSameMoves(parts.moved, whole.moved);
    for (const [name, value] of Object.entries(whole.metrics)) expect(parts.metrics[name], name).toBeCloseTo(value, 4);
  });

  test.each(variants)("gradient checkpointing does not matter: %s", async (_, overrides) => {
    const kept = await train(overrides, [tinyBatch()]);
    const recomputed = await train({ ...overrides, model: { gradient_checkpointing: true } }, [tinyBatch()]);
    expectSameMoves(recomputed.moved, kept.moved);
  });

  test.each(variants)("neither the order of groups nor of their completions matters: %s", async (_, overrides) => {
    const batch = tinyBatch();
    const expected = await train(overrides, [batch]);
    const order = <T>(items: readonly T[]) => fc.shuffledSubarray([...items], { minLength: items.length });
    await fc.assert(
      fc.asyncProperty(order([0, 1, 2, 3]), order([0, 1, 2]), async (groups, rows) => {
        const permuted = {
          ...batch,
          tasks: groups.map((g) => batch.tasks[g]!),
          groups: groups.map((g) => {
            const group = batch.groups[g]!;
            return { ...group, completions: rows.map((r) => group.completions[r]!) };
          }),
        };
        expectSameMoves((await train(overrides, [permuted])).moved, expected.moved);
      }),
      { numRuns: 3 },
    );
  });
});

describe("groups whose rewards are all equal", () => {
  const reward = (g: number, r: number): number => (g % 2 === 0 ? 1 : Number(r === 0));

  test.each(["grpo", "bnpo", "dr_grpo", "dapo"] as const)(
    "%s: skipping their forward changes nothing",
    async (loss_type) => {
      const overrides: Overrides = { loss_type, steps_per_generation: 2, num_iterations: 2 };
      const skipped = await train(overrides, [tinyBatch({ reward })]);
      const forced = await train({ ...overrides, entropy_coef: 1e-30 }, [tinyBatch({ reward })]);
      expect(skipped.metrics["frac_groups_forwarded"]).toBe(0.5);
      expect(forced.metrics["frac_groups_forwarded"]).toBe(1);
      expectSameMoves(skipped.moved, forced.moved);
    },
  );

  test("a batch of nothing else moves nothing and still counts its optimizer steps", async () => {
    const equal = tinyBatch({ reward: () => 1 });
    const { moved, metrics } = await train({ steps_per_generation: 2, num_iterations: 2 }, [equal, equal]);
    expect(moved.every((x) => x === 0)).toBe(true);
    expect(metrics).toMatchObject({
      optimizer_steps: 8,
      frac_groups_forwarded: 0,
      loss: 0,
      grad_norm: 0,
      frac_reward_zero_std: 1,
    });
  });

  test("with a KL term they are forwarded, and move the policy", async () => {
    const { moved, metrics } = await train({ beta: 0.04 }, [tinyBatch({ reward: () => 1 })]);
    expect(metrics["frac_groups_forwarded"]).toBe(1);
    expect(moved.some((x) => x !== 0)).toBe(true);
  });
});

describe("updates that must not happen", () => {
  test.each([
    ["grpo", { beta: 0.04, num_iterations: 2 }],
    ["ppo", { algo: "ppo", kl_coef: 0.05 }],
  ] as [string, Overrides][])("learning_rate 0 leaves every bit of the weights: %s", async (_, overrides) => {
    const batches = [tinyBatch(), tinyBatch({ seed: 2 })];
    const { moved, metrics } = await train({ ...overrides, learning_rate: 0, weight_decay: 0.1 }, batches);
    expect(moved.every((x) => x === 0)).toBe(true);
    expect(metrics["grad_norm"]).toBeGreaterThan(0);
  });

  test.each(["grpo", "ppo"] as const)("%s: five updates in a row that are not finite stop the run", async (algo) => {
    const bad = tinyBatch({ edit: (c) => ({ ...c, behaviourLogprobs: c.behaviourLogprobs.map(() => Number.NaN) }) });
    const { model, updater, dispose } = tinyLearner(tf, tinyRun({ algo, num_ppo_epochs: 1 }), startAt);
    for (let i = 0; i < 4; i++) await updater.update(bad, i);
    expect([...(await model.flat.data())]).toEqual([...startAt(model.layout)]);
    expect(updater.policy).toMatchObject({ skippedUpdates: 4, optimizer: { step: 0 } });
    // A good one in between starts the count anew.
    const { metrics } = await updater.update(tinyBatch(), 4);
    expect(metrics).toMatchObject({ skipped_updates: 4, optimizer_steps: 1 });
    const after = [...(await model.flat.data())];
    for (let i = 5; i < 9; i++) await updater.update(bad, i);
    await expect(updater.update(bad, 9)).rejects.toThrow(UserError);
    await expect(updater.update(bad, 9)).rejects.toThrow(
      /not finite \(loss NaN, norm NaN\) .*lower learning rate \(now 0\.01\)/,
    );
    expect([...(await model.flat.data())]).toEqual(after);
    dispose();
  });

  test("a completion without a reward moves nothing in PPO, and is no part of GRPO's baseline", async () => {
    const nobody = tinyBatch({ reward: () => null });
    for (const algo of ["ppo", "grpo"] as const) {
      const { moved, metrics } = await train({ algo }, [nobody]);
      expect(moved.every((x) => x === 0)).toBe(true);
      // a mean of no rewards is none, not 0
      expect(Object.keys(metrics).filter((name) => /^rewards?(\/|$)/.test(name))).toEqual([]);
      expect(metrics["accuracy"]).toBeTypeOf("number");
    }
  });
});

describe("critic warm-up", () => {
  test.each([
    ["separate", false],
    ["separate", true],
    ["shared", false],
    ["shared", true],
  ] as const)("trains the value function alone: %s, LoRA %s", async (value_model, enabled) => {
    const run: Overrides = {
      algo: "ppo",
      value_model,
      lora: { enabled, r: 2 },
      critic_warmup_steps: 2,
      weight_decay: 0.1,
      num_ppo_epochs: 2,
    };
    const batches = [tinyBatch(), tinyBatch({ seed: 2 }), tinyBatch({ seed: 3 })];
    const { moved, publishedSize } = await train(run, batches.slice(0, 2));
    expect(moved.subarray(0, publishedSize).every((x) => x === 0)).toBe(true);
    expect(moved.subarray(publishedSize).some((x) => x !== 0)).toBe(true);
    const after = await train(run, batches);
    expect(after.moved.subarray(0, publishedSize).some((x) => x !== 0)).toBe(true);
  });

  test("the policy's first step after it is as large as it would be without", async () => {
    const run: Overrides = { algo: "ppo", value_model: "separate", num_ppo_epochs: 1, adam_epsilon: 1e-8 };
    const largest = (moved: Float32Array, size: number): number => Math.max(...moved.subarray(0, size).map(Math.abs));
    const without = await train(run, [tinyBatch()]);
    const warm = await train({ ...run, critic_warmup_steps: 3 }, [tinyBatch(), tinyBatch(), tinyBatch(), tinyBatch()]);
    expect(largest(without.moved, without.publishedSize)).toBeCloseTo(0.01, 4);
    expect(largest(warm.moved, warm.publishedSize)).toBeCloseTo(0.01, 4);
  });

  test("value_learning_rate is the value function's alone", async () => {
    const run: Overrides = { algo: "ppo", value_model: "separate", num_ppo_epochs: 1 };
    const same = await train(run, [tinyBatch()]);
    const faster = await train({ ...run, value_learning_rate: 0.03 }, [tinyBatch()]);
    const split = ({ moved, publishedSize }: typeof same) => [
      moved.subarray(0, publishedSize),
      moved.subarray(publishedSize),
    ];
    const [[policy, value], [policyFaster, valueFaster]] = [split(same), split(faster)];
    expectSameMoves(policyFaster!, policy!);
    expectSameMoves(
      valueFaster!,
      value!.map((x) => 3 * x),
    );
  });
});

// ------------------------------------------------------------------------------------ against
// loops written out plainly

interface Flat {
  readonly sequences: { promptIds: Int32Array; completions: Int32Array[] }[];
  /** [N] of all completions, group by group. */
  readonly behaviour: Float32Array;
  readonly truncated: boolean[];
  readonly rewards: number[][];
}

function flatten(batch: TrainingBatch, groups: readonly number[]): Flat {
  const completions = groups.map((g) => batch.groups[g]!.completions);
  return {
    sequences: groups.map((g, i) => ({
      promptIds: batch.tasks[g]!.promptIds,
      completions: completions[i]!.map((c) => c.ids),
    })),
    behaviour: Float32Array.from(completions.flat().flatMap((c) => [...c.behaviourLogprobs])),
    truncated: completions.flat().map((c) => c.finishReason === "length"),
    rewards: completions.map((group) => group.map((c) => c.rewards["correctness"]!)),
  };
}

/**
 * Everything of a run in one microbatch: model, one Adam in float64 written out here, and forwards.
 */
function plainLearner(run: RunConfig) {
  const { model, dispose } = tinyLearner(tf, run, startAt);
  const m = new Float64Array(model.flat.size);
  const v = new Float64Array(model.flat.size);
  let step = 0;
  const forward = (batch: ReturnType<typeof prepareMicrobatch>, reference = false) => {
    const views = model.views();
    const weights = reference ? model.reference() : model.policy(views);
    const hidden = hiddenStates(tf, tinyConfig, weights, batch);
    const both = completionLogprobs(tf, tinyConfig, weights, hidden, batch, run.temperature, "both");
    const column = (i: number): Tensor1D => tf.reshape(tf.slice(both, [0, i], [-1, 1]), [-1]);
    const value = (rows: Tensor1D): Tensor1D => completionValues(tf, { tensors: views, lora: null }, hidden, rows);
    return { logprobs: column(0), entropy: column(1), value };
  };
  const read = (f: () => Tensor1D): Float32Array => Float32Array.from(tf.tidy(() => f().dataSync()));
  const update = (loss: () => Scalar): void => {
    const { value, grads } = tf.variableGrads(loss, [model.flat]);
    const gradient = Object.values(grads)[0]!.dataSync();
    step++;
    const next = Float32Array.from(model.flat.dataSync(), (w, i) => {
      m[i] = run.adam_beta1 * m[i]! + (1 - run.adam_beta1) * gradient[i]!;
      v[i] = run.adam_beta2 * v[i]! + (1 - run.adam_beta2) * gradient[i]! ** 2;
      const corrected = Math.sqrt(v[i]! / (1 - run.adam_beta2 ** step)) + run.adam_epsilon;
      return w - (run.learning_rate * (m[i]! / (1 - run.adam_beta1 ** step))) / corrected;
    });
    tf.dispose([value, grads]);
    tf.tidy(() => model.flat.assign(tf.tensor1d(next)));
  };
  const moved = (): Float32Array => {
    const before = startAt(model.layout);
    return Float32Array.from(model.flat.dataSync(), (x, i) => x - before[i]!);
  };
  return { model, forward, read, update, moved, dispose };
}

describe("against a plain loop over the losses", () => {
  test.each([
    ["recompute, beta", { loss_type: "dapo", beta: 0.04 }],
    ["behaviour", { loss_type: "bnpo", old_logprobs: "behaviour", epsilon: 0.05 }],
    [
      "masked truncated, sequence level",
      { loss_type: "grpo", importance_sampling_level: "sequence", mask_truncated_completions: true },
    ],
  ] as [string, Overrides][])("GRPO, num_iterations 2 and steps_per_generation 2: %s", async (_, overrides) => {
    const options: Overrides = { ...overrides, num_iterations: 2, steps_per_generation: 2, learning_rate: 0.05 };
    const run = tinyRun(options);
    const batch = tinyBatch();
    const plain = plainLearner(run);
    const halves = [flatten(batch, [0, 1]), flatten(batch, [2, 3])].map((half) => {
      const prepared = prepareMicrobatch(tf, tinyConfig, half.sequences);
      const { rowOf, numRows } = prepared.packed;
      const advantages = groupAdvantages(half.rewards, run.scale_rewards).advantages.flatMap((group) => [...group]);
      const mask = lossMask(rowOf, half.truncated, run.mask_truncated_completions);
      const behaves = run.old_logprobs === "behaviour";
      return {
        prepared,
        tokens: {
          rowOf,
          numRows,
          mask,
          oldLogprobs: behaves ? half.behaviour : plain.read(() => plain.forward(prepared).logprobs),
          behaviourLogprobs: behaves ? null : half.behaviour,
          refLogprobs: run.beta === 0 ? null : plain.read(() => plain.forward(prepared, true).logprobs),
          advantages: perToken(advantages, rowOf),
        },
        unmasked: mask.reduce((a, b) => a + b, 0),
      };
    });
    const generationTokens = (halves[0]!.unmasked + halves[1]!.unmasked) / 2;
    for (let pass = 0; pass < 2; pass++) {
      for (const { prepared, tokens, unmasked } of halves) {
        plain.update(() => {
          const { logprobs, entropy } = plain.forward(prepared);
          return grpoLoss(tf, { ...tokens, logprobs, entropy }, run, { rows: 6, tokens: unmasked, generationTokens })
            .loss;
        });
      }
    }
    const { moved, metrics } = await train(options, [batch]);
    expectSameMoves(moved, plain.moved());
    expect(metrics["optimizer_steps"]).toBe(4);
    // The test would show nothing if the ratio never left 1.
    expect(metrics["clip_ratio/region_mean"]).toBeGreaterThan(0);
    for (const { prepared } of halves) disposeBatch(tf, prepared);
    plain.dispose();
  });

  test.each([
    ["two epochs, KL reward", { num_ppo_epochs: 2, kl_coef: 0.1 }],
    ["one step, whose own forward is π_old", { num_ppo_epochs: 1, kl_coef: 0 }],
    ["one step, KL reward", { num_ppo_epochs: 1, kl_coef: 0.1 }],
  ])("PPO, bootstrapped truncation, shared value head: %s", async (_, epochsAndKl) => {
    const options: Overrides = {
      algo: "ppo",
      num_mini_batches: 1,
      ...epochsAndKl,
      bootstrap_truncated: true,
      missing_eos_penalty: 0.5,
      vf_coef: 0.3,
      entropy_coef: 0.02,
      learning_rate: 0.05,
    };
    const run = tinyRun(options);
    const batch = tinyBatch();
    const all = flatten(batch, [0, 1, 2, 3]);
    const plain = plainLearner(run);
    const prepared = prepareMicrobatch(tf, tinyConfig, all.sequences, true);
    const { rowOf, numRows } = prepared.packed;
    const { forward, read } = plain;
    const oldLogprobs = read(() => forward(prepared).logprobs);
    const oldValues = read(() => forward(prepared).value(prepared.predictors));
    const { advantages, returns, mask } = ppoAdvantages(
      {
        rowOf,
        logprobs: oldLogprobs,
        refLogprobs: run.kl_coef === 0 ? null : read(() => forward(prepared, true).logprobs),
        values: oldValues,
        scores: all.rewards.flat(),
        truncated: all.truncated,
        bootstrapValues: read(() => forward(prepared).value(prepared.lastRows!)),
      },
      run,
    );
    const denominators = { rows: numRows, tokens: rowOf.length, generationTokens: rowOf.length };
    for (let epoch = 0; epoch < run.num_ppo_epochs; epoch++) {
      plain.update(() => {
        const { logprobs, entropy, value } = forward(prepared);
        const constants = {
          rowOf,
          numRows,
          mask,
          advantages,
          oldLogprobs,
          behaviourLogprobs: all.behaviour,
          refLogprobs: null,
        };
        const policy = ppoPolicyLoss(tf, { ...constants, logprobs, entropy }, run, denominators).loss;
        const values = value(prepared.predictors);
        return tf.add(
          policy,
          tf.mul(valueLoss(tf, { values, oldValues, returns, mask }, run, denominators).loss, run.vf_coef),
        );
      });
    }
    expect(all.truncated.some(Boolean)).toBe(true);
    const { moved } = await train(options, [batch]);
    expectSameMoves(moved, plain.moved());
    disposeBatch(tf, prepared);
    plain.dispose();
  });
});
