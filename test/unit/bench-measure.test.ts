import { describe, expect, it } from "vitest";
import { interleave } from "../../bench/measure.js";

/** Gives the numbers in turn, and writes down who was asked. */
function side(name: string, values: readonly number[], log: string[]) {
  return async (repeat: number) => {
    log.push(`${name}${repeat}`);
    return repeat < 0 ? 1e9 : values[repeat]!;
  };
}

describe("interleave", () => {
  it("takes turns after one untimed run of each side", async () => {
    const log: string[] = [];
    await interleave(side("a", [1, 2, 3], log), side("b", [1, 2, 3], log), 3);
    expect(log).toEqual(["a-1", "b-1", "a0", "b0", "a1", "b1", "a2", "b2"]);
  });

  it("compares medians, which one bad measurement does not move, and keeps every value in order", async () => {
    const { ours, peer, ratio } = await interleave(side("a", [30, 900, 20], []), side("b", [10, 12, 0.1], []), 3);
    expect(ours).toEqual({ values: [30, 900, 20], median: 30, min: 20, max: 900, spread: 880 / 30 });
    expect(peer).toMatchObject({ values: [10, 12, 0.1], median: 10 });
    expect(ratio).toBe(3);
  });

  it("takes the mean of the two middle values of an even number, by size and not by spelling", async () => {
    const { ours } = await interleave(side("a", [100, 9, 20, 3], []), null, 4);
    expect(ours.median).toBe(14.5);
  });

  it("without a peer has no ratio", async () => {
    const { peer, ratio } = await interleave(side("a", [1], []), null, 1);
    expect([peer, ratio]).toEqual([null, null]);
  });
});
