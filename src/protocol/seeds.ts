/** Noise keys of tasks: learner and actors must agree on them without asking each other. */
import { createHash } from "node:crypto";

/**
 * 64-bit noise key of a task: the first 8 bytes, big-endian, of sha256("<run seed>/<task id>").
 * Depends on nothing else, so a re-leased or resumed task samples the same tokens again.
 */
export function taskSeed(runSeed: number, taskId: string): bigint {
  return createHash("sha256").update(`${runSeed}/${taskId}`).digest().readBigUInt64BE(0);
}

/** Noise key of prompt number `index` among those asked together with one seed. */
export const promptSeed = (seed: number, index: number): bigint =>
  taskSeed(seed, index === 0 ? "infer" : `infer-${index}`);
