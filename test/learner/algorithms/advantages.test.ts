import { readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  explainedVariance,
  gae,
  groupAdvantages,
  nextKlCoef,
  ppoAdvantages,
  whiten,
  type PpoAdvantageOptions,
} from "../../../src/learner/algorithms/advantages.js";

interface GrpoGolden {
  inputs: { groupSize: number };
  advantages: { name: string; scale: "group" | "batch" | "none"; rewards: (number | null)[]; advantages: number[] }[];
}

interface PpoCase {
  name: string;
  options: Partial<PpoAdvantageOptions> & { mask_truncated?: boolean };
  rows: number[][];
  scores: number[];
  truncated: boolean[];
  /** Rows whose tokens count. */
  kept: number[];
  oldValues: number[];
  oldLogprobs: number[];
  refLogprobs: number[];
  bootstrap: number[] | null;
  advantages: number[];
  returns: number[];
  meanKl: number | null;
}

const grpo = JSON.parse(readFileSync(new URL("../../golden/grpo.json", import.meta.url), "utf8")) as GrpoGolden;
const ppo = JSON.parse(readFileSync(new URL("../../golden/ppo.json", import.meta.url), "utf8")) as PpoCase[];

const scales = ["group", "batch", "none"] as const;
const reward = fc.double({ min: -4, max: 4, noNaN: true });

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  const largest = Math.max(...Array.from(expected, Math.abs));
  expect(actual.length).toBe(expected.length);
  const gap = Math.max(...Array.from(expected, (value, i) => Math.abs(value - actual[i]!)));
  expect(gap).toBeLessThanOrEqual(1e-5 * largest);
}

describe("GRPO advantages", () => {
  it.each(grpo.advantages)("equal TRL: $name, scale_rewards $scale", ({ scale, rewards, advantages }) => {
    const size = grpo.inputs.groupSize;
    const groups = Array.from({ length: rewards.length / size }, (_, g) => rewards.slice(g * size, (g + 1) * size));
    const ours = groupAdvantages(groups, scale).advantages.flatMap((group) => [...group]);
    expectClose(ours, advantages);
  });

  it("sum to zero in every group", () => {
    const groups = fc.array(fc.array(fc.option(reward), { minLength: 2, maxLength: 8 }), {
      minLength: 1,
      maxLength: 5,
    });
    fc.assert(
      fc.property(groups, fc.constantFrom(...scales), (rewards, scale) => {
        for (const group of groupAdvantages(rewards, scale).advantages) {
          const size = Math.max(...group.map(Math.abs));
          expect(Math.abs(group.reduce((sum, a) => sum + a, 0))).toBeLessThanOrEqual(1e-9 * Math.max(1, size) + 1e-10);
        }
      }),
    );
  });

  it("are exactly 0 where the rewards of a group are equal, whatever their binary rounding", () => {
    fc.assert(
      fc.property(reward, fc.integer({ min: 2, max: 9 }), fc.constantFrom(...scales), (value, size, scale) => {
        const { advantages, zeroStd } = groupAdvantages([Array<number>(size).fill(value), [0, 1]], scale);
        expect(zeroStd).toEqual([true, false]);
        expect(advantages[0]!.every((a) => a === 0)).toBe(true);
        expect(advantages[1]!.every((a) => a !== 0)).toBe(true);
      }),
    );
  });

  it("leave unscored completions out of the baseline and give them 0", () => {
    const { advantages } = groupAdvantages([[1, null, 0]], "none");
    expect([...advantages[0]!]).toEqual([0.5, 0, -0.5]);
  });
});

const defaults: PpoAdvantageOptions = {
  gamma: 1,
  lam: 0.95,
  kl_coef: 0.05,
  kl_estimator: "k1",
  whiten_rewards: false,
  missing_eos_penalty: null,
  mask_truncated_completions: false,
};

describe("PPO advantages", () => {
  it.each(ppo)("and returns equal TRL: $name", (golden) => {
    const { options, rows, kept } = golden;
    const rowOf = Int32Array.from(rows.flatMap((ids, row) => ids.map(() => row)));
    const ours = ppoAdvantages(
      {
        rowOf,
        logprobs: Float32Array.from(golden.oldLogprobs),
        refLogprobs: Float32Array.from(golden.refLogprobs),
        values: Float32Array.from(golden.oldValues),
        scores: golden.scores,
        truncated: golden.truncated,
        bootstrapValues: golden.bootstrap === null ? null : Float32Array.from(golden.bootstrap),
      },
      { ...defaults, ...options, mask_truncated_completions: options.mask_truncated ?? false },
    );
    const tokens = [...rowOf.keys()].filter((t) => kept.includes(rowOf[t]!));
    expectClose(
      tokens.map((t) => ours.advantages[t]!),
      golden.advantages,
    );
    expectClose(
      tokens.map((t) => ours.returns[t]!),
      golden.returns,
    );
    expect(ours.mask.reduce((sum, m) => sum + m, 0)).toBe(tokens.length);
    for (const [t, m] of ours.mask.entries()) expect(m).toBe(tokens.includes(t) ? 1 : 0);
    for (const [t, a] of ours.advantages.entries()) if (ours.mask[t] === 0) expect(a).toBe(0);
    if (golden.meanKl !== null) expectClose([ours.meanKl], [golden.meanKl]);
  });

  it("mask completions that no reward function scored", () => {
    const row = { logprobs: new Float32Array(4), refLogprobs: null, bootstrapValues: null, truncated: [false, false] };
    const batch = {
      ...row,
      rowOf: Int32Array.of(0, 0, 1, 1),
      values: Float32Array.of(0.5, 0, 0, 0),
      scores: [1, null],
    };
    expect([...ppoAdvantages(batch, defaults).mask]).toEqual([1, 1, 0, 0]);
  });
});

const rollout = fc
  .array(fc.array(fc.tuple(reward, reward), { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 4 })
  .map((rows) => ({
    rowOf: Int32Array.from(rows.flatMap((tokens, row) => tokens.map(() => row))),
    rewards: rows.flatMap((tokens) => tokens.map(([r]) => r)),
    values: rows.flatMap((tokens) => tokens.map(([, v]) => v)),
    bootstrap: rows.map(() => 0),
  }));

describe("GAE", () => {
  it("with gamma = lam = 1 is the sum of the rewards still to come, minus the value", () => {
    fc.assert(
      fc.property(rollout, (input) => {
        const mask = input.rewards.map(() => 1);
        const { advantages, returns } = gae({ ...input, mask }, 1, 1);
        for (const [t, row] of input.rowOf.entries()) {
          const toCome = input.rewards.reduce((sum, r, u) => (u >= t && input.rowOf[u] === row ? sum + r : sum), 0);
          expect(returns[t]).toBeCloseTo(toCome, 9);
          expect(advantages[t]).toBeCloseTo(toCome - input.values[t]!, 9);
        }
      }),
    );
  });

  it("carries value and advantage across masked tokens", () => {
    fc.assert(
      fc.property(rollout, fc.nat(), reward, reward, (input, where, junkReward, junkValue) => {
        const at = where % input.rewards.length;
        const insert = <T>(values: ArrayLike<T>, value: T): T[] => Array.from(values).toSpliced(at, 0, value);
        const mask = input.rewards.map(() => 1);
        const plain = gae({ ...input, mask }, 0.9, 0.8);
        const longer = gae(
          {
            rowOf: Int32Array.from(insert(input.rowOf, input.rowOf[at]!)),
            rewards: insert(input.rewards, junkReward),
            values: insert(input.values, junkValue),
            mask: insert(mask, 0),
            bootstrap: input.bootstrap,
          },
          0.9,
          0.8,
        );
        expect(Array.from(longer.advantages).toSpliced(at, 1)).toEqual(Array.from(plain.advantages));
        expect(Array.from(longer.returns).toSpliced(at, 1)).toEqual(Array.from(plain.returns));
      }),
    );
  });
});

describe("whitening", () => {
  it("gives mean 0 and unbiased variance 1 over unmasked entries, 0 elsewhere", () => {
    const mask = [1, 0, 1, 1, 1];
    const white = whiten(Float64Array.of(3, 100, -1, 2, 8), mask);
    const kept = [...white].filter((_, t) => mask[t] === 1);
    expect(kept.reduce((sum, x) => sum + x, 0)).toBeCloseTo(0, 9);
    expect(kept.reduce((sum, x) => sum + x * x, 0) / 3).toBeCloseTo(1, 6);
    expect(white[1]).toBe(0);
  });

  it("leaves a single token as it is, and is finite when all are equal", () => {
    expect([...whiten(Float64Array.of(3, 5), [0, 1])]).toEqual([0, 5]);
    expect([...whiten(Float64Array.of(2, 2, 2), [1, 1, 1])]).toEqual([0, 0, 0]);
  });
});

describe("adaptive KL coefficient", () => {
  it("rises above the target, falls below it, by at most 20 % of completions / horizon", () => {
    const control = { target: 6, horizon: 1000 };
    expect(nextKlCoef(0.1, 6, 100, control)).toBe(0.1);
    expect(nextKlCoef(0.1, 6.6, 100, control)).toBeCloseTo(0.1 * 1.01, 12);
    expect(nextKlCoef(0.1, 600, 100, control)).toBeCloseTo(0.1 * 1.02, 12);
    expect(nextKlCoef(0.1, 0, 100, control)).toBeCloseTo(0.1 * 0.98, 12);
  });
});

describe("explained variance", () => {
  const returns = [1, 2, 3, 99];
  const mask = [1, 1, 1, 0];
  it("is 1 for a perfect critic, 0 for a constant one, negative for a worse one", () => {
    expect(explainedVariance([1, 2, 3, 0], returns, mask)).toBe(1);
    expect(explainedVariance([2, 2, 2, 0], returns, mask)).toBeCloseTo(0, 12);
    expect(explainedVariance([3, 2, 1, 0], returns, mask)).toBeCloseTo(-3, 12);
  });

  it("is null when the returns do not vary", () => {
    expect(explainedVariance([1, 2], [1, 1], [1, 1])).toBeNull();
    expect(explainedVariance([1, 2], [1, 5], [1, 0])).toBeNull();
  });
});
