/**
 * Which tasks exist, who works on them, and which are answered. No sockets, files or clock.
 *
 *   open ──lease──▶ leased ──complete──▶ finished
 *    ▲                 │ actor gone, lease expired, answer refused
 *    └─────release─────┘
 *
 * Pacing: training batch k opens when the policy's iteration reaches k − maxStaleness, not before.
 * Dynamic sampling: a fresh task replaces a group of equal rewards, which carries no signal, in the
 * same place of the same batch (DAPO, arXiv:2503.14476, section 3.2).
 */
import type { Task, TrajectoryGroup } from "../../protocol/messages.js";

export interface TaskBookOptions {
  /** Task of a place in a batch; replacement 0 is the first one, r its r-th substitute. */
  readonly taskAt: (batch: number, slot: number, replacement: number) => Task;
  /** Prompts per training batch. */
  readonly groupsPerBatch: number;
  /** Number of training batches of the run: later ones are never opened. */
  readonly maxBatches: number;
  readonly maxStaleness: number;
  /** Most substitutes of one place in a batch; 0 = no dynamic sampling. */
  readonly maxReplacements: number;
  /** True when all completions of the group earned the same total reward. */
  readonly rewardsEqual: (group: TrajectoryGroup) => boolean;
  readonly leaseMs: number;
}

interface Entry {
  readonly task: Task;
  readonly slot: number;
  readonly replacement: number;
  readonly order: number;
  /** Actor that holds the lease; null = open. */
  holder: string | null;
  /** Everybody who holds or has held the lease: their answers count. */
  readonly askedOf: Set<string>;
  expiresMs: number;
  /** Last actor that failed to answer: others are tried first. */
  failedOn: string | null;
  /** Was leased before: goes to the front of its batch. */
  returned: boolean;
}

interface OpenBatch {
  readonly tasks: Task[];
  readonly groups: (TrajectoryGroup | undefined)[];
  missing: number;
  filtered: number;
}

interface OpenEvaluation {
  readonly groups: (TrajectoryGroup | undefined)[];
  missing: number;
}

export interface FinishedBatch {
  readonly tasks: readonly Task[];
  /** groups[i] answers tasks[i] */
  readonly groups: readonly TrajectoryGroup[];
  readonly filteredGroups: number;
}

export class TaskBook {
  readonly #options: TaskBookOptions;
  readonly #live = new Map<string, Entry>();
  readonly #finished = new Set<string>();
  readonly #batches = new Map<number, OpenBatch>();
  #evaluation: OpenEvaluation | null = null;
  #nextBatch: number;
  #orders = 0;
  #current = -1;

  /** @param firstBatch the batch the first published policy trains on (its iteration) */
  constructor(firstBatch: number, options: TaskBookOptions) {
    this.#nextBatch = firstBatch;
    this.#options = options;
  }

  /** Iteration of the current policy; −1 before the first. */
  get iteration(): number {
    return this.#current;
  }

  /** Moves to a newer policy: opens the batches pacing allows, forgets those trained on. */
  advance(iteration: number): void {
    if (iteration < this.#current)
      throw new Error(`the policy went back from iteration ${this.#current} to ${iteration}`);
    this.#current = iteration;
    for (const [k, batch] of this.#batches) {
      if (k >= iteration) continue;
      if (batch.missing > 0) throw new Error(`batch ${k} is not finished, but the policy is at iteration ${iteration}`);
      this.#batches.delete(k);
    }
    while (this.#nextBatch <= iteration + this.#options.maxStaleness && this.#nextBatch < this.#options.maxBatches)
      this.#openBatch(this.#nextBatch++);
  }

  /** Adds evaluation tasks of the current policy; they go before all training tasks. */
  addEvaluation(tasks: readonly Task[]): void {
    if (this.#evaluation !== null) throw new Error("an evaluation is already under way");
    for (const task of tasks)
      if (task.kind !== "eval" || task.batch !== this.#current)
        throw new Error(`${task.taskId} does not evaluate the current policy (iteration ${this.#current})`);
    this.#evaluation = { groups: tasks.map(() => undefined), missing: tasks.length };
    tasks.forEach((task, slot) => this.#addEntry(task, slot, 0));
  }

  /** Answers of the evaluation once all are in, and then forgets it; null before. */
  takeEvaluation(): TrajectoryGroup[] | null {
    if (this.#evaluation === null || this.#evaluation.missing > 0) return null;
    const groups = this.#evaluation.groups as TrajectoryGroup[];
    this.#evaluation = null;
    return groups;
  }

  /** Groups still missing from the evaluation under way. */
  get evaluationMissing(): number {
    return this.#evaluation?.missing ?? 0;
  }

  /** The batch once all its groups are in; null before. It stays until the policy moves past it. */
  finishedBatch(k: number): FinishedBatch | null {
    const batch = this.#batches.get(k);
    if (batch === undefined || batch.missing > 0) return null;
    return { tasks: batch.tasks, groups: batch.groups as TrajectoryGroup[], filteredGroups: batch.filtered };
  }

  /** False when batch k was trained on already, or will never be opened. */
  mayBecomeReady(k: number): boolean {
    return this.#batches.has(k) || (k >= this.#nextBatch && k < this.#options.maxBatches);
  }

  /**
   * Leases the most urgent open task of at most `free` rows: evaluation, then the oldest batch,
   * returned tasks first. One that failed on this actor is kept for others while `othersLive`.
   */
  lease(actorId: string, free: number, nowMs: number, othersLive: boolean): Task | null {
    let best: Entry | null = null;
    for (const entry of this.#live.values()) {
      if (entry.holder !== null || entry.task.groupSize > free) continue;
      if (othersLive && entry.failedOn === actorId) continue;
      if (best === null || isMoreUrgent(entry, best)) best = entry;
    }
    if (best === null) return null;
    const { task } = best;
    if (task.kind === "train" && this.#current < task.batch - this.#options.maxStaleness)
      throw new Error(`pacing is broken: ${task.taskId} at iteration ${this.#current}`);
    best.holder = actorId;
    best.askedOf.add(actorId);
    best.expiresMs = nowMs + this.#options.leaseMs;
    return task;
  }

  /** Rows this actor has under lease. */
  leasedCompletions(actorId: string): number {
    let rows = 0;
    for (const entry of this.#live.values()) if (entry.holder === actorId) rows += entry.task.groupSize;
    return rows;
  }

  /** The actor still works on these: their leases start anew. */
  renew(actorId: string, taskIds: readonly string[], nowMs: number): void {
    for (const id of taskIds) {
      const entry = this.#live.get(id);
      if (entry?.holder === actorId) entry.expiresMs = nowMs + this.#options.leaseMs;
    }
  }

  /** Gives back all leases of an actor that is gone; returns how many. */
  releaseActor(actorId: string): number {
    return this.#releaseWhere((entry) => entry.holder === actorId);
  }

  /** Gives back leases that ran out; returns how many. */
  releaseExpired(nowMs: number): number {
    return this.#releaseWhere((entry) => entry.holder !== null && entry.expiresMs <= nowMs);
  }

  /** Gives back one lease, if this actor holds it (its answer was refused). */
  release(taskId: string, actorId: string): void {
    this.#releaseWhere((entry) => entry.task.taskId === taskId && entry.holder === actorId);
  }

  /** True when this actor holds or has held the lease of an unanswered task. */
  wasAskedOf(taskId: string, actorId: string): boolean {
    return this.#live.get(taskId)?.askedOf.has(actorId) ?? false;
  }

  /** "finished" when it was answered before; null when it was never asked. */
  find(taskId: string): Task | "finished" | null {
    return this.#live.get(taskId)?.task ?? (this.#finished.has(taskId) ? "finished" : null);
  }

  /** Takes an answer; true when dynamic sampling put a fresh task in its place. */
  complete(group: TrajectoryGroup): boolean {
    const entry = this.#live.get(group.taskId);
    if (entry === undefined) throw new Error(`${group.taskId} is not an unanswered task`);
    this.#live.delete(group.taskId);
    this.#finished.add(group.taskId);
    const { task, slot, replacement } = entry;
    if (task.kind === "eval") {
      this.#evaluation!.groups[slot] = group;
      this.#evaluation!.missing--;
      return false;
    }
    const batch = this.#batches.get(task.batch)!;
    if (replacement < this.#options.maxReplacements && this.#options.rewardsEqual(group)) {
      const fresh = this.#options.taskAt(task.batch, slot, replacement + 1);
      batch.tasks[slot] = fresh;
      batch.filtered++;
      this.#addEntry(fresh, slot, replacement + 1);
      return true;
    }
    batch.groups[slot] = group;
    batch.missing--;
    return false;
  }

  #openBatch(k: number): void {
    const count = this.#options.groupsPerBatch;
    const tasks = Array.from({ length: count }, (_, slot) => this.#options.taskAt(k, slot, 0));
    this.#batches.set(k, { tasks, groups: tasks.map(() => undefined), missing: count, filtered: 0 });
    tasks.forEach((task, slot) => this.#addEntry(task, slot, 0));
  }

  #addEntry(task: Task, slot: number, replacement: number): void {
    if (this.find(task.taskId) !== null) throw new Error(`task id ${task.taskId} is used twice`);
    const lease = { holder: null, askedOf: new Set<string>(), expiresMs: 0, failedOn: null, returned: false };
    this.#live.set(task.taskId, { task, slot, replacement, order: this.#orders++, ...lease });
  }

  #releaseWhere(matches: (entry: Entry) => boolean): number {
    let released = 0;
    for (const entry of this.#live.values()) {
      if (!matches(entry)) continue;
      entry.failedOn = entry.holder;
      entry.holder = null;
      entry.returned = true;
      released++;
    }
    return released;
  }
}

function isMoreUrgent(a: Entry, b: Entry): boolean {
  if (a.task.kind !== b.task.kind) return a.task.kind === "eval";
  if (a.task.batch !== b.task.batch) return a.task.batch < b.task.batch;
  if (a.returned !== b.returned) return a.returned;
  return a.order < b.order;
}
