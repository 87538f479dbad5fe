/**
 * Seeded noise for initial weights and shuffles (sampling noise is counter-based and lives with the
 * actors).
 */

/** Generator of uniforms in [0, 1): mulberry32 (Tommy Ettinger, public domain), period 2^32. */
export function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
