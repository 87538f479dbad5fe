/** How much is computed at once where a whole array would be too large. */
import type { TF } from "../backend/backend.js";

export interface PartSizes {
  /** Elements of an MLP's array [rows, intermediate] when recomputed; about ten of them exist. */
  readonly mlp: number;
  /** Elements of a chunk of logits [rows, vocabulary], of a head without a gradient. */
  readonly frozenHead: number;
  /** The same of a trained head, whose gradient each chunk repeats. */
  readonly trainedHead: number;
}

const MI = 1024 * 1024;

/** Parts that fit a processor's caches; a GPU has room, and each operation costs it a launch. */
export const PART_SIZES: Readonly<Record<"cpu" | "gpu", PartSizes>> = {
  cpu: { mlp: 4 * MI, frozenHead: 16 * MI, trainedHead: 64 * MI },
  gpu: { mlp: 64 * MI, frozenHead: 128 * MI, trainedHead: 128 * MI },
};

export function partSizes(tf: TF): PartSizes {
  const { isUsingGpuDevice: isGpu = false } = tf.backend() as { isUsingGpuDevice?: boolean };
  return PART_SIZES[isGpu ? "gpu" : "cpu"];
}
