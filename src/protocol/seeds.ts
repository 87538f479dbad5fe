/** Noise keys of tasks: learner and actors must agree on them without asking each other. */
import { createHash } from "node:crypto";

/**
 * Noise key of a task: the first 8 bytes, big-endian, of sha256("<run seed>/<task id>"). A
 * re-leased or resumed task samples the same tokens again.
 */
export function taskSeed(runSeed: number, taskId: string): bigint {
  return createHash("sha256").update(`${runSeed}/${taskId}`).digest().readBigUInt64BE(0);
}

/** Noise key of prompt `index` among those asked together with one seed (`infer`, `serve`). */
export const promptSeed = (seed: number, index: number): bigint =>
  taskSeed(seed, index === 0 ? "infer" : `infer-${index}`);
