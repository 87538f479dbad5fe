import { describe, expect, it } from "vitest";
import { fillUniforms, philox4x32, uniform } from "../../src/engine/noise.js";

function block(counter: [number, number, number, number], key: [number, number]): string {
  const out = new Uint32Array(4);
  philox4x32(counter, key, out);
  return [...out].map((word) => word.toString(16).padStart(8, "0")).join(" ");
}

describe("philox4x32-10", () => {
  // Known-answer vectors published with Random123 (kat_vectors, lines "philox4x32 10").
  it("gives the published known answers", () => {
    expect(block([0, 0, 0, 0], [0, 0])).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
    const f = 0xffffffff;
    expect(block([f, f, f, f], [f, f])).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
    expect(block([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toBe(
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    );
  });
});

describe("uniform", () => {
  it("is a float32 in [0, 1) with mean 1/2 and variance 1/12", () => {
    const n = 40_000;
    let sum = 0;
    let squares = 0;
    let bad = 0;
    for (let i = 0; i < n; i++) {
      const u = uniform(12345678901234567890n, i % 200, Math.floor(i / 200));
      if (!(u >= 0 && u < 1 && Math.fround(u) === u)) bad++;
      sum += u;
      squares += u * u;
    }
    expect(bad).toBe(0);
    const mean = sum / n;
    // Four standard errors: 4 / sqrt(12 n) = 0.0058.
    expect(Math.abs(mean - 0.5)).toBeLessThan(0.0058);
    expect(Math.abs(squares / n - mean * mean - 1 / 12)).toBeLessThan(0.003);
  });

  it("uses all 64 bits of the seed, the completion and the position", () => {
    const base = uniform(7n, 3, 5);
    expect(uniform(7n, 3, 5)).toBe(base);
    const others = [
      uniform(7n + (1n << 63n), 3, 5),
      uniform(8n, 3, 5),
      uniform(7n, 4, 5),
      uniform(7n, 3, 6),
      uniform(7n, 3, 9),
    ];
    expect(new Set([base, ...others]).size).toBe(6);
  });

  it("filled in runs from any position equals one call per position", () => {
    for (const from of [0, 1, 6, 11]) {
      const out = new Float32Array(7 * 3);
      fillUniforms(out, 3, 1, 7, 99n, 2, from);
      for (let step = 0; step < 7; step++) expect(out[step * 3 + 1]).toBe(uniform(99n, 2, from + step));
      expect(out[0]).toBe(0);
    }
  });
});
