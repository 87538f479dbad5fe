/** The rotary embedding (Su et al. 2021, eq. 15), rounded where transformers rounds it. */

/** The frequencies [D/2] of a head: `1.0 / (base ** (arange(0, dim, 2).float() / dim))`. */
export function rotaryFrequencies(theta: number, headDim: number): Float32Array {
  return Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / Math.fround(theta ** Math.fround((2 * i) / headDim)));
}

/** cos and sin [positions, D/2], times `scale`; angles are rounded to float32 first. */
export function rotaryCosSin(
  positions: ArrayLike<number>,
  { ropeTheta, headDim }: { readonly ropeTheta: number; readonly headDim: number },
  scale = 1,
): { cos: Float32Array; sin: Float32Array } {
  const frequencies = rotaryFrequencies(ropeTheta, headDim);
  const half = frequencies.length;
  const cos = new Float32Array(positions.length * half);
  const sin = new Float32Array(positions.length * half);
  for (let n = 0; n < positions.length; n++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(positions[n]! * frequencies[i]!);
      cos[n * half + i] = Math.cos(angle) * scale;
      sin[n * half + i] = Math.sin(angle) * scale;
    }
  }
  return { cos, sin };
}
