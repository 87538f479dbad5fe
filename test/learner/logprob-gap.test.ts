import { expect, it } from "vitest";
import { runConfigSchema } from "../../src/config/schema.js";
import { UserError } from "../../src/errors.js";
import { checkGap, gapOf } from "../../src/learner/logprob-gap.js";

const limits = (selftest: object) => runConfigSchema.parse({ selftest }).selftest;
/** 198 tokens agree, two do not: mean 0.003, 99th percentile (the 198th of 200) 0. */
const rare = gapOf([...Array<number>(198).fill(0), 0.5, 0.1]);

it("a gap is its largest, its mean and its 99th percentile; without tokens there is none", () => {
  expect(rare).toEqual({ max: 0.5, mean: expect.closeTo(0.003, 12) as number, p99: 0 });
  expect(gapOf([0.3])).toEqual({ max: 0.3, mean: 0.3, p99: 0.3 });
  expect(gapOf([])).toBeNull();
});

it("each limit stops a run by itself, and null lifts it", () => {
  const lifted = { max_logprob_gap: null };
  expect(() => checkGap(rare, limits({}))).toThrow(UserError);
  expect(() => checkGap(rare, limits({ ...lifted, mean_logprob_gap: 0.02, p99_logprob_gap: 0.1 }))).not.toThrow();
  expect(() => checkGap(rare, limits({ ...lifted, mean_logprob_gap: 0.002 }))).toThrow(/mean.*mean_logprob_gap=0.002/);
  const frequent = gapOf([...Array<number>(196).fill(0), 0.2, 0.2, 0.2, 0.2]);
  expect(() => checkGap(frequent, limits({ ...lifted, p99_logprob_gap: 0.1 }))).toThrow(/p99_logprob_gap=0.1/);
  expect(() => checkGap(null, limits({}))).not.toThrow();
});

it("a difference that is no number stops every run", () => {
  expect(() => checkGap(gapOf([0, NaN]), limits({}))).toThrow(/Infinity/);
});
