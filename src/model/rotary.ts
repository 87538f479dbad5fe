/** The rotary embedding (Su et al. 2021, eq. 15), rounded where transformers rounds it. */

/** How frequencies are scaled, in the words of config.json. */
export type RopeScaling =
  | { readonly type: "linear"; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    };

export interface RotaryShape {
  readonly ropeTheta: number;
  readonly headDim: number;
  readonly ropeScaling?: RopeScaling;
}

const { fround } = Math;

/** The frequencies [D/2] of a head: theta^(-2i/D), scaled where config.json says so. */
export function rotaryFrequencies({ ropeTheta, headDim, ropeScaling }: RotaryShape): Float32Array {
  return Float32Array.from({ length: headDim / 2 }, (_, i) =>
    scaled(fround(1 / fround(ropeTheta ** fround((2 * i) / headDim))), ropeScaling),
  );
}

/**
 * Linear scaling divides each frequency by the factor. Llama 3.1's keeps the high ones, divides the
 * low ones and blends in between, by how often a wave fits the original context. torch divides a
 * number by a tensor by way of the reciprocal, and so do we.
 */
function scaled(frequency: number, scaling: RopeScaling | undefined): number {
  if (scaling === undefined) return frequency;
  const factor = fround(scaling.factor);
  const divided = fround(frequency / factor);
  if (scaling.type === "linear") return divided;
  const { lowFreqFactor: low, highFreqFactor: high, originalMaxPositions: context } = scaling;
  const wave = fround(fround(2 * Math.PI) * fround(1 / frequency));
  if (wave > fround(context / low)) return divided;
  if (wave < fround(context / high)) return frequency;
  const share = fround(fround(fround(context * fround(1 / wave)) - fround(low)) / fround(high - low));
  return fround(fround(fround(fround(1 - share) * frequency) / factor) + fround(share * frequency));
}

/** cos and sin [positions, D/2], times `scale`; angles are rounded to float32 first. */
export function rotaryCosSin(
  positions: ArrayLike<number>,
  shape: RotaryShape,
  scale = 1,
): { cos: Float32Array; sin: Float32Array } {
  const frequencies = rotaryFrequencies(shape);
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
