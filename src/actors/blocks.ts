/**
 * Arranges rows in flight into blocks of equal size that share a prompt (see graph/segment.ts).
 * Arithmetic only: knows no tensors.
 */
export interface BlockCosts {
  /** Cost of one row in a segment, shared or not. */
  readonly row: number;
  /** Extra cost of one block, whatever its size: reading and packing the prompt's keys and values. */
  readonly block: number;
}

/**
 * The block size m that makes a batch cheapest: groups with `alive[g]` rows are cut into ceil(alive[g] / m) blocks
 * of m rows, the last one padded.
 * @param maxRows most rows, padding included; m = 1 pads nothing and is always allowed
 */
export function chooseBlockSize(alive: readonly number[], costs: BlockCosts, maxRows: number): number {
  let best = 1;
  let bestCost = Infinity;
  for (let m = 1; m <= Math.max(1, ...alive); m++) {
    const blocks = alive.reduce((sum, rows) => sum + Math.ceil(rows / m), 0);
    const cost = blocks * (m * costs.row + costs.block);
    if ((m === 1 || blocks * m <= maxRows) && cost < bestCost) {
      best = m;
      bestCost = cost;
    }
  }
  return best;
}
