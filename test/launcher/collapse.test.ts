/** When a run is said to collapse: answers half as long as at first, and not more often right. */
import { describe, expect, it } from "vitest";
import { CollapseWatch } from "../../src/launcher/collapse.js";

/** The iterations (from 1) at which something is told. */
function toldAt(lengths: readonly number[], accuracies: readonly number[]): number[] {
  const watch = new CollapseWatch();
  return lengths.flatMap((length, i) =>
    watch.see({ "completions/mean_length": length, accuracy: accuracies[i]! }) === null ? [] : [i + 1],
  );
}
const times = (n: number, value: number): number[] => Array.from({ length: n }, () => value);

describe("collapse", () => {
  // met in GRPO on GSM8K with a reward for form: 143 to 7 tokens, 2 % right
  const lengths = [143, 140, 120, 100, 80, 40, 20, 7, 7, 7, 7];

  it("is told once, when the mean of five is below half of the first five's", () => {
    // means of five from the sixth on: 96, 72, 49.4 (the first: 116.6)
    expect(toldAt(lengths, times(11, 0.02))).toEqual([8]);
    expect(new CollapseWatch().see({})).toBeNull();
  });

  it("is none where accuracy rose with it, and is told when that is lost again", () => {
    const rising = lengths.map((_, i) => 0.02 * i);
    expect(toldAt(lengths, rising)).toEqual([]);
    // the first five's mean is 0.04; the latest five's is 0.052 at the fifteenth, then 0.012
    expect(toldAt([...lengths, ...times(5, 7)], [...rising, 0.04, 0.02, 0, 0, 0])).toEqual([16]);
  });

  it("is none at half the length or longer, nor in iterations that say nothing", () => {
    expect(toldAt([100, 100, 100, 100, 100, ...times(20, 50)], times(25, 0))).toEqual([]);
    expect(toldAt([NaN, ...lengths], times(12, 0.02))).toEqual([9]);
  });

  it("says what was found", () => {
    const watch = new CollapseWatch();
    const said = lengths.map((length) => watch.see({ "completions/mean_length": length, accuracy: 0.02 }));
    expect(said[7]).toContain("117 tokens in the first 5 iterations, 49 in the latest, accuracy 2.0 % and 2.0 %");
  });
});
