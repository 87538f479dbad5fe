/**
 * Shares the machine's cores out between the learner and the actors, and says so to the native libraries.
 */
import type { RunConfig } from "../config/schema.js";

export interface ThreadPlan {
  readonly learner: number;
  /** Of each actor; 0 when there is none. */
  readonly actor: number;
}

/**
 * Equal shares for every process, so that neither side starves the other; what is left over goes to the learner.
 * Every process gets at least one thread. Numbers fixed by the configuration are taken as they are.
 * With `serial` there is one process, the learner, which samples and trains by turns: it gets all cores.
 * @param cores usable cores, `os.availableParallelism()`
 */
export function planThreads(cores: number, config: Pick<RunConfig, "actors" | "learner">, serial: boolean): ThreadPlan {
  const { num, threads: fixedActor } = config.actors;
  const fixedLearner = config.learner.threads;
  if (serial) return { learner: fixedLearner || cores, actor: 0 };
  const share = Math.max(1, Math.floor(cores / (num + 1)));
  const actor = fixedActor || (fixedLearner > 0 ? Math.max(1, Math.floor((cores - fixedLearner) / num)) : share);
  return { learner: fixedLearner || Math.max(1, cores - num * actor), actor };
}

/** Environment of a child that computes with `threads` threads. */
export function threadEnv(threads: number): NodeJS.ProcessEnv {
  return {
    OMP_NUM_THREADS: String(threads),
    TF_NUM_INTRAOP_THREADS: String(threads),
    TF_NUM_INTEROP_THREADS: "1",
    TF_CPP_MIN_LOG_LEVEL: "1",
  };
}
