/**
 * Arranges rows in flight into blocks of equal size that share a prompt (see graph/segment.ts).
 * Arithmetic only: knows no tensors.
 */

/**
 * Packing the keys and values of a block's prompt for a product costs as much as attention of this
 * many rows (measured on AVX2).
 */
const PACK_ROWS = 8;

/**
 * The block size m with which attention to prompts is cheapest: groups with `alive[g]` rows are cut
 * into ceil(alive[g] / m) blocks of m places.
 */
export function chooseBlockSize(alive: readonly number[]): number {
  let best = 1;
  let bestCost = Infinity;
  for (let m = 1; m <= Math.max(1, ...alive); m++) {
    const cost = (m + PACK_ROWS) * alive.reduce((blocks, rows) => blocks + Math.ceil(rows / m), 0);
    if (cost < bestCost) {
      best = m;
      bestCost = cost;
    }
  }
  return best;
}
