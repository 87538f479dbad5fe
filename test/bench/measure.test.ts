import { describe, expect, it } from "vitest";
import { converted, interleave } from "../../bench/measure.js";

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
    const peers = { x: side("b", [1, 2], log), y: side("c", [1, 2], log) };
    await interleave(side("a", [1, 2], log), peers, 2);
    expect(log).toEqual(["a-1", "b-1", "c-1", "a0", "b0", "c0", "a1", "b1", "c1"]);
  });

  it("compares medians, which one bad measurement does not move, and keeps every value in order", async () => {
    const peers = { x: side("b", [10, 12, 0.1], []), y: side("c", [60, 60, 61], []) };
    const compared = await interleave(side("a", [30, 900, 20], []), peers, 3);
    expect(compared.ours).toEqual({ values: [30, 900, 20], median: 30, min: 20, max: 900, spread: 880 / 30 });
    expect(compared.peers["x"]).toMatchObject({ values: [10, 12, 0.1], median: 10, ratio: 3 });
    expect(compared.peers["y"]).toMatchObject({ median: 60, ratio: 0.5 });
  });

  it("takes the mean of the two middle values of an even number, by size and not by spelling", async () => {
    const { ours } = await interleave(side("a", [100, 9, 20, 3], []), {}, 4);
    expect(ours.median).toBe(14.5);
  });

  it("without a peer has no ratio", async () => {
    expect((await interleave(side("a", [1], []), {}, 1)).peers).toEqual({});
  });
});

describe("converted", () => {
  it("summarises anew in the other unit", async () => {
    const rates = await interleave(side("a", [1, 2, 4], []), { x: side("b", [8, 4, 2], []) }, 3);
    const costs = converted(rates, (rate) => 8 / rate);
    expect(costs.ours).toEqual({ values: [8, 4, 2], median: 4, min: 2, max: 8, spread: 1.5 });
    expect(costs.peers["x"]).toMatchObject({ values: [1, 2, 4], ratio: 2 });
  });
});
