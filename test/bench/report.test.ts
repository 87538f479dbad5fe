import { describe, expect, it } from "vitest";
import type { BenchResult } from "../../bench/bench.js";
import { table } from "../../bench/report.js";

const measured = (median: number) => ({ values: [median], median, min: median, max: median, spread: 0 });

const result: BenchResult = {
  title: "Rollout",
  unit: "tokens/s",
  better: "higher",
  peerNames: ["one", "other"],
  cases: [
    {
      name: "both",
      settings: {},
      ours: measured(2_000),
      peers: { one: { ...measured(500), ratio: 4 }, other: { ...measured(8), ratio: 250 } },
    },
    { name: "without the other", settings: {}, ours: measured(3), peers: { one: { ...measured(6), ratio: 0.5 } } },
  ],
  notes: ["a note"],
};

describe("table", () => {
  it("has a column for each peer, and a dash where one was not measured", () => {
    const rows = table(result, 0)
      .split("\n")
      .map((line) => line.split(/ {2,}/));
    expect(rows[1]).toEqual([
      "",
      "ours tokens/s",
      "spread",
      "one tokens/s",
      "spread",
      "ours/peer",
      "other tokens/s",
      "spread",
      "ours/peer",
    ]);
    expect(rows[2]).toEqual(["both", "2,000", "0 %", "500", "0 %", "4.00", "8.00", "0 %", "250.00"]);
    expect(rows[3]).toEqual(["without the other", "3.00", "0 %", "6.00", "0 %", "0.50", "-"]);
    expect(rows.at(-1)).toEqual(["a note"]);
  });

  it("says that figures of a busy machine are not to be believed", () => {
    expect(table(result, 0.2)).toContain("other programs used 20 % of the cores");
    expect(table(result, 0.01)).not.toContain("other programs");
  });
});
