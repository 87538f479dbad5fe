/** Which GPU each process of a run sees. Knows nothing about what CUDA needs besides a device. */
import type { RunConfig } from "../config/schema.js";

/** CUDA_VISIBLE_DEVICES of each process: an index or a UUID; null to compute on the CPU. */
export interface DevicePlan {
  readonly learner: string | null;
  /** By the actor's index. */
  readonly actors: readonly (string | null)[];
}

/**
 * The learner has the first GPU to itself, so that neither side waits for the other's kernels.
 * Actors take the rest in turn; one GPU is shared. A learner on the CPU leaves all to the actors.
 * @param serial one process, the learner, which also samples
 */
export function assignDevices(
  gpus: readonly string[],
  config: Pick<RunConfig, "actors" | "learner">,
  serial: boolean,
): DevicePlan {
  const [first] = gpus;
  const actorsUseGpu = config.actors.device === "cuda";
  const learnerUsesGpu =
    config.learner.device !== "cpu" && config.learner.backend !== "wasm" && config.learner.backend !== "cpu";
  if (first === undefined) return { learner: null, actors: Array.from({ length: config.actors.num }, () => null) };
  if (serial) return { learner: learnerUsesGpu || actorsUseGpu ? first : null, actors: [] };
  const forActors = learnerUsesGpu && gpus.length > 1 ? gpus.slice(1) : gpus;
  return {
    learner: learnerUsesGpu ? first : null,
    actors: Array.from({ length: config.actors.num }, (_, index) =>
      actorsUseGpu ? forActors[index % forActors.length]! : null,
    ),
  };
}
