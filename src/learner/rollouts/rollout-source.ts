/**
 * Where the learner's loop gets trajectories from. Two implementations: the dispatcher thread
 * (actors over ZeroMQ) and the serial source (an engine in this process, strictly on-policy).
 */
import type { PolicyVersion } from "../../model/weights.js";
import type { Task, TrajectoryGroup } from "../../protocol/messages.js";

export interface TrainingBatch {
  readonly batch: number;
  readonly tasks: readonly Task[];
  /** groups[i] answers tasks[i] */
  readonly groups: readonly TrajectoryGroup[];
  /** Groups that dynamic sampling replaced because all their rewards were equal. */
  readonly filteredGroups: number;
  /** Seconds actors were idle / busy while this batch was made, summed over actors. */
  readonly actorIdleSeconds: number;
  readonly actorBusySeconds: number;
}

export interface RolloutSource {
  /**
   * Makes these weights the current policy. `packed` may be reused by the caller once the promise
   * resolves.
   */
  publish(packed: Float32Array, iteration: number): Promise<PolicyVersion>;
  /** All groups of training batch k (waits for them). */
  batch(k: number): Promise<TrainingBatch>;
  /**
   * Answers evaluation tasks with the current policy, results in task order. `onDone` counts groups
   * finished so far.
   */
  evaluate(tasks: readonly Task[], onDone?: (done: number) => void): Promise<TrajectoryGroup[]>;
  /**
   * Writes per-token advantages beside the batch's trajectories: by task id, one [T] array per
   * completion.
   */
  recordAdvantages(k: number, advantages: ReadonlyMap<string, readonly Float32Array[]>): Promise<void>;
  /** Resolves when everything received so far is on disk (fsync). */
  flush(): Promise<void>;
  /**
   * Running totals since the start, by snake_case name: groups received, duplicate, refused, leases
   * given back, …
   */
  stats(): Promise<Record<string, number>>;
  close(): Promise<void>;
}
