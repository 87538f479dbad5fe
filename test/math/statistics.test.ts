import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compareSeeds, isShown } from "../../src/eval/verdict.js";
import { studentQuantile } from "../../src/math/distributions.js";
import {
  detectableOverSeeds,
  detectablePaired,
  holmAdjusted,
  majAtK,
  mcnemarMidP,
  pairedBootstrapInterval,
  passAtK,
  tTest,
  wilsonInterval,
} from "../../src/math/statistics.js";
import { Draw } from "../../src/math/random.js";

interface Golden {
  wilson: { successes: number; n: number; interval: number[] }[];
  mid_p: { b: number; c: number; p: number }[];
  t_intervals: { values: number[]; mean: number; interval: number[]; p: number }[];
  t_quantiles: { df: number; p: number; t: number }[];
  detectable_seeds: { seeds: number; effect: number }[];
  detectable_pairs: { n: number; discordant: number; difference: number }[];
  holm: { p: number[]; adjusted: number[] }[];
  pass_at_k: { n: number; c: number; k: number; pass: number }[];
  bootstrap: { only_a: number; only_b: number; both: number; interval: number[] }[];
}
const golden = JSON.parse(readFileSync(new URL("../golden/statistics.json", import.meta.url), "utf8")) as Golden;

/** To 1e-9, relative for numbers above 1. */
const expectSame = (found: readonly number[], expected: readonly number[]): void => {
  expect(found).toHaveLength(expected.length);
  for (const [i, x] of expected.entries())
    expect(Math.abs(found[i]! - x), `${found[i]} for ${x}`).toBeLessThanOrEqual(1e-9 * Math.max(1, Math.abs(x)));
};

describe("equal to scipy, statsmodels and exact fractions to 1e-9", () => {
  it("Wilson", () => {
    for (const { successes, n, interval } of golden.wilson) expectSame(wilsonInterval(successes, n), interval);
  });
  it("mid-p McNemar", () => {
    for (const { b, c, p } of golden.mid_p) expectSame([mcnemarMidP(b, c)], [p]);
  });
  it("t test and interval", () => {
    for (const { values, mean, interval, p } of golden.t_intervals) {
      const found = tTest(values);
      expectSame([found.mean, ...found.interval, found.p], [mean, ...interval, p]);
    }
  });
  it("t quantiles", () => {
    for (const { df, p, t } of golden.t_quantiles) expectSame([studentQuantile(p, df)], [t]);
  });
  it("detectable difference over seeds", () => {
    for (const { seeds, effect } of golden.detectable_seeds) expectSame([detectableOverSeeds(1, seeds)], [effect]);
  });
  it("detectable difference of paired questions", () => {
    for (const { n, discordant, difference } of golden.detectable_pairs)
      expectSame([detectablePaired(n, discordant)!], [difference]);
  });
  it("Holm", () => {
    for (const { p, adjusted } of golden.holm) expectSame(holmAdjusted(p), adjusted);
  });
  it("pass@k", () => {
    for (const { n, c, k, pass } of golden.pass_at_k) expectSame([passAtK(n, c, k)], [pass]);
  });
});

describe("McNemar", () => {
  it("depends on discordant questions alone and on no order", () => {
    fc.assert(
      fc.property(fc.nat(300), fc.nat(300), (b, c) => {
        const p = mcnemarMidP(b, c);
        expect(p).toBe(mcnemarMidP(c, b));
        expect(p).toBeGreaterThan(0);
        expect(p).toBeLessThanOrEqual(1);
      }),
    );
    expect(mcnemarMidP(0, 0)).toBe(1);
    expect(mcnemarMidP(0, 5)).toBeCloseTo(1 / 32, 12); // 2 · ½ · 2⁻⁵
  });
  it("no detectable difference without enough discordant questions", () => {
    expect(detectablePaired(512, 0)).toBeNull();
    expect(detectablePaired(100, 0.02)).toBeNull();
  });
});

describe("paired bootstrap", () => {
  const answers = (onlyA: number, onlyB: number, both: number): number[] => [
    ...Array<number>(onlyA).fill(-1),
    ...Array<number>(onlyB).fill(1),
    ...Array<number>(both).fill(0),
  ];
  it("agrees with scipy's up to Monte Carlo error", () => {
    for (const { only_a, only_b, both, interval } of golden.bootstrap) {
      const [low, high] = pairedBootstrapInterval(answers(only_a, only_b, both), 1);
      // the means lie on a grid of 1/n; a quantile of 10,000 of them is known to about one step
      const step = 1.01 / (only_a + only_b + both);
      expect(Math.abs(low - interval[0]!)).toBeLessThanOrEqual(step);
      expect(Math.abs(high - interval[1]!)).toBeLessThanOrEqual(step);
    }
  });
  it("same seed, same interval; another seed, hardly another; no spread, no width", () => {
    const differences = Array.from({ length: 301 }, (_, i) => Math.sin(i) + 0.1);
    const interval = pairedBootstrapInterval(differences, 7, 2000);
    expect(pairedBootstrapInterval(differences, 7, 2000)).toEqual(interval);
    const other = pairedBootstrapInterval(differences, 8, 2000);
    expect(other).not.toEqual(interval);
    expect(Math.abs(other[0] - interval[0])).toBeLessThan(0.02);
    expect(pairedBootstrapInterval([1, 1, 1], 0, 100)).toEqual([1, 1]);
  });
});

describe("t test", () => {
  it("equal differences leave no doubt, zeros none either way", () => {
    expect(tTest([0.5, 0.5])).toEqual({ mean: 0.5, sd: 0, interval: [0.5, 0.5], p: 0 });
    expect(tTest([0, 0, 0])).toEqual({ mean: 0, sd: 0, interval: [0, 0], p: 1 });
  });
  it("needs two values", () => {
    expect(() => tTest([0.1])).toThrow(/at least 2/);
  });
});

describe("pass@k and maj@k", () => {
  it("pass@1 is the share of right samples, pass@n whether any is", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), fc.nat(60), (n, c) => {
        c = Math.min(c, n);
        expect(passAtK(n, c, 1)).toBeCloseTo(c / n, 10);
        expect(passAtK(n, c, n)).toBeCloseTo(c > 0 ? 1 : 0, 10);
      }),
    );
    expect(() => passAtK(4, 2, 5)).toThrow(RangeError);
  });
  it("pass@k is the share of subsets of size k that hold a right sample", () => {
    const right = [1, 0, 0, 1, 0];
    let subsets = 0;
    let passed = 0;
    for (let i = 0; i < 5; i++)
      for (let j = i + 1; j < 5; j++) {
        subsets++;
        passed += right[i]! || right[j]!;
      }
    expect(passAtK(5, 2, 2)).toBeCloseTo(passed / subsets, 12);
  });
  it("maj@k counts the first k, the first seen wins a tie, the unanswered do not vote", () => {
    const right = (x: number): boolean => x === 18;
    expect(majAtK([7, 18, 18, 7, 7], 3, right)).toBe(true);
    expect(majAtK([7, 18, 18, 7, 7], 5, right)).toBe(false);
    expect(majAtK([18, 7], 2, right)).toBe(true);
    expect(majAtK([7, 18], 2, right)).toBe(false);
    expect(majAtK([undefined, undefined, 18], 3, right)).toBe(true);
    expect(majAtK([undefined], 1, right)).toBe(false);
  });
});

/**
 * Simulated studies. Every question has its own chance of a right answer (mean about 0.8); a
 * training run moves all of them by a normal shift of its own, the between-seed spread. Rates below
 * are over `rounds` simulations: with 2,000, a true 5 % lies within 1 % of what is seen (two
 * standard errors), a true 80 % within 1.8 %.
 */
describe("simulated", () => {
  const rounds = 2000;
  const questions = 512;
  const normal = (draw: Draw): number =>
    Math.sqrt(-2 * Math.log(1 - draw.unit())) * Math.cos(2 * Math.PI * draw.unit());
  const chances = Array.from({ length: questions }, (_, i) => 0.95 - 0.3 * ((i + 0.5) / questions));
  const answer = (draw: Draw, shift: number): boolean[] => chances.map((chance) => draw.unit() < chance + shift);
  const accuracy = (draw: Draw, shift: number): number => answer(draw, shift).filter(Boolean).length / questions;
  const rate = (rejects: (draw: Draw) => boolean, key: number): number => {
    let count = 0;
    for (let round = 0; round < rounds; round++) if (rejects(new Draw(key, round))) count++;
    return count / rounds;
  };
  const discordant = chances.reduce((sum, chance) => sum + 2 * chance * (1 - chance), 0) / questions;

  /**
   * As `compare A B` judges one mode of two files; its bootstrap has no part in that and is left
   * out.
   */
  const checkpoints = (difference: number) => (draw: Draw) => {
    const [a, b] = [answer(draw, 0), answer(draw, difference)];
    const p = mcnemarMidP(a.filter((x, i) => x && !b[i]).length, b.filter((x, i) => x && !a[i]).length);
    return isShown({ p_holm: holmAdjusted([p])[0]! });
  };
  it("checkpoint against checkpoint: false positives at most 6.5 %", () => {
    expect(rate(checkpoints(0), 1)).toBeLessThanOrEqual(0.065);
  });
  it("checkpoint against checkpoint: 80 ± 5 % power at the detectable difference", () => {
    const found = rate(checkpoints(-detectablePaired(questions, discordant)!), 2);
    expect(found).toBeGreaterThan(0.75);
    expect(found).toBeLessThan(0.85);
  });

  /**
   * The verdict as `study` and `compare` reach it, on accuracies that hold the questions' noise and
   * the seeds'.
   */
  const shown = (seeds: number, spread: number, difference: number) => (draw: Draw) => {
    const side = (shift: number): number[] =>
      Array.from({ length: seeds }, () => accuracy(draw, spread * normal(draw) + shift));
    const [a, b] = [side(0), side(difference)];
    return isShown(compareSeeds([{ mode: "sampled", n: questions, a, b }])[0]!);
  };
  const studies = [3, 5].flatMap((seeds) => [0, 0.01, 0.02].map((spread) => [seeds, spread] as const));
  it.each(studies)("%d seeds with a spread of %d: false positives at most 6.5 %", (seeds, spread) => {
    expect(rate(shown(seeds, spread, 0), 10 * seeds + 100 * spread)).toBeLessThanOrEqual(0.065);
  });
  it.each(studies)("%d seeds with a spread of %d: 80 ± 5 % power at the detectable difference", (seeds, spread) => {
    const ofQuestions = chances.reduce((sum, chance) => sum + 2 * chance * (1 - chance), 0) / questions ** 2;
    const sd = Math.sqrt(2 * spread ** 2 + ofQuestions);
    const found = rate(shown(seeds, spread, -detectableOverSeeds(sd, seeds)), 1000 + 10 * seeds + 100 * spread);
    expect(found).toBeGreaterThan(0.75);
    expect(found).toBeLessThan(0.85);
  });
  it.each([2, 3, 5])("%d seeds at a ceiling, where differences are often equal: at most 6.5 % as well", (seeds) => {
    const nearlyAll = (draw: Draw): number => {
      let right = 0;
      for (let i = 0; i < 64; i++) right += Number(draw.unit() < 0.98);
      return right / 64;
    };
    const found = rate((draw) => {
      const side = (): number[] => Array.from({ length: seeds }, () => nearlyAll(draw));
      return isShown(compareSeeds([{ mode: "greedy", n: 64, a: side(), b: side() }])[0]!);
    }, seeds);
    expect(found).toBeLessThanOrEqual(0.065);
  });
  it("two algorithms without a difference in a family of six comparisons: at most 6.5 % show any", () => {
    const found = rate((draw) => {
      const side = (): number[] => Array.from({ length: 3 }, () => accuracy(draw, 0.01 * normal(draw)));
      const family = Array.from({ length: 6 }, () => ({
        mode: "sampled" as const,
        n: questions,
        a: side(),
        b: side(),
      }));
      return compareSeeds(family).some(isShown);
    }, 77);
    expect(found).toBeLessThanOrEqual(0.065);
  });
});
