/**
 * The rotary tables are transformers'. test/reference/rotary_reference.py makes
 * test/golden/rotary.json.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseModelConfig } from "../../src/model/config.js";
import { rotaryCosSin, rotaryFrequencies } from "../../src/model/rotary.js";

interface Golden {
  positions: number[];
  cases: { theta: number; head_dim: number; scaling: object; inv_freq: number[]; cos: number[][]; sin: number[][] }[];
}
// the file has the shortest decimals that read back as the same float32
const golden = JSON.parse(
  readFileSync(new URL("../golden/rotary.json", import.meta.url), "utf8"),
  (name, value: unknown) => (typeof value === "number" && name !== "factor" ? Math.fround(value) : value),
) as Golden;

/** torch's float32 power is one step off its correctly rounded value here; ours is correct. */
const INEXACT = ["1000000/128/37"];

describe.each(golden.cases)("theta $theta, head size $head_dim, $scaling", (one) => {
  const { theta, head_dim: headDim, scaling, inv_freq, cos, sin } = one;
  const config = parseModelConfig(
    {
      model_type: "llama",
      vocab_size: 11,
      hidden_size: headDim,
      intermediate_size: 6,
      num_hidden_layers: 1,
      num_attention_heads: 1,
      rope_parameters: { ...scaling, rope_theta: theta },
    },
    "golden",
  );
  test("frequencies are equal, bit by bit", () => {
    const found = rotaryFrequencies(config);
    const differing = inv_freq.flatMap((value, i) => (value === found[i] ? [] : [`${theta}/${headDim}/${i}`]));
    expect(differing).toEqual(INEXACT.filter((name) => name.startsWith(`${theta}/${headDim}/`)));
    inv_freq.forEach((value, i) => expect(Math.abs(found[i]! / value - 1)).toBeLessThan(2 ** -23));
  });

  test("cos and sin differ by little more than their last bit", () => {
    const half = headDim / 2;
    const found = rotaryCosSin(golden.positions, config);
    golden.positions.forEach((position, n) => {
      for (let i = 0; i < half; i++) {
        // one step of an angle beside what torch's own cos is off by
        const isInexact = INEXACT.includes(`${theta}/${headDim}/${i}`);
        const limit = 1.2e-7 + (isInexact ? 2 ** -23 * position * inv_freq[i]! : 0);
        expect(Math.abs(found.cos[n * half + i]! - cos[n]![i]!)).toBeLessThan(limit);
        expect(Math.abs(found.sin[n * half + i]! - sin[n]![i]!)).toBeLessThan(limit);
      }
    });
  });
});
