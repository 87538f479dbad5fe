/** Where the learner's loop gets trajectories from: the dispatcher thread or the serial source. */
import type { PolicyVersion } from "../../model/identity.js";
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

/** Which held-out problems are answered, one completion each. */
export interface EvaluationRequest {
  /** Iteration of the current policy. */
  readonly iteration: number;
  readonly mode: "sampled" | "greedy";
  /** Problems from the beginning; all when there are fewer. */
  readonly n: number;
  /** Begins the task ids, so that two evaluations of one policy never share one. */
  readonly purpose: "eval" | "selftest";
}

export interface Evaluation {
  readonly tasks: readonly Task[];
  /** groups[i] answers tasks[i] */
  readonly groups: readonly TrajectoryGroup[];
}

export interface RolloutSource {
  /** Makes these weights the current policy. The caller may reuse `packed` after that. */
  publish(packed: Float32Array, iteration: number): Promise<PolicyVersion>;
  /** All groups of training batch k (waits for them). */
  batch(k: number): Promise<TrainingBatch>;
  /** Answers held-out problems; `onDone` is told of the groups finished, at the start as well. */
  evaluate(request: EvaluationRequest, onDone?: (done: number, total: number) => void): Promise<Evaluation>;
  /** Writes advantages beside the trajectories: by task id, one [T] array per completion. */
  recordAdvantages(k: number, advantages: ReadonlyMap<string, readonly Float32Array[]>): Promise<void>;
  /** Resolves when everything received so far is on disk (fsync). */
  flush(): Promise<void>;
  /** Running totals since the start: groups received, duplicate, refused, leases given back, … */
  stats(): Promise<Record<string, number>>;
  close(): Promise<void>;
}
