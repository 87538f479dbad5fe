import { readFileSync } from "node:fs";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { learningRateFactor } from "../../../src/learner/algorithms/schedule.js";

interface Case {
  type: "linear" | "cosine" | "constant";
  warmup: number;
  total: number;
  factors: number[];
}

const cases = JSON.parse(readFileSync(new URL("../../golden/schedule.json", import.meta.url), "utf8")) as Case[];

describe("learning rate schedules", () => {
  it.each(cases)(
    "equals transformers: $type, $warmup of $total steps of warm-up",
    ({ type, warmup, total, factors }) => {
      factors.forEach((factor, step) => {
        expect(learningRateFactor(type, step, warmup, total)).toBeCloseTo(factor, 12);
      });
    },
  );

  it("stays within [0, 1], rises through warm-up and never rises after it", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("linear" as const, "cosine" as const, "constant" as const),
        fc.nat(20),
        fc.integer({ min: 1, max: 60 }),
        (type, warmup, total) => {
          const factors = Array.from({ length: total + 5 }, (_, step) => learningRateFactor(type, step, warmup, total));
          for (const [step, factor] of factors.entries()) {
            if (factor < 0 || factor > 1) return false;
            const previous = factors[step - 1];
            if (previous !== undefined && step < warmup && factor <= previous) return false;
            if (previous !== undefined && step > warmup && factor > previous) return false;
          }
          return true;
        },
      ),
    );
  });
});
