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
import type { TrainingBatch } from "./rollout-source.js";

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

/** Actors that may die or hang over a task before it is set aside. */
export const MAX_DEATHS = 3;
/** A task or a heartbeat may be under way for so long. */
const IN_TRANSIT_MS = 10_000;

interface Entry {
  readonly task: Task;
  readonly slot: number;
  readonly replacement: number;
  readonly order: number;
  /** Actor that holds the lease; null = open. */
  holder: string | null;
  /** Everybody who holds or has held the lease: their answers count. */
  readonly askedOf: Set<string>;
  leasedMs: number;
  expiresMs: number;
  /** Last actor that failed to answer: others are tried first. */
  failedOn: string | null;
  /** Was leased before: goes to the front of its batch. */
  returned: boolean;
  /** Actors that died or hung over it. */
  deaths: number;
}

interface OpenBatch {
  readonly tasks: Task[];
  readonly groups: (TrajectoryGroup | undefined)[];
  missing: number;
  filtered: number;
}

export type FinishedBatch = Pick<TrainingBatch, "tasks" | "groups" | "filteredGroups">;

export class TaskBook {
  readonly #options: TaskBookOptions;
  readonly #live = new Map<string, Entry>();
  readonly #finished = new Set<string>();
  readonly #batches = new Map<number, OpenBatch>();
  #evaluation: Pick<OpenBatch, "groups" | "missing"> | null = null;
  #nextBatch: number;
  #orders = 0;
  /** Iteration of the current policy; −1 before the first. */
  #current = -1;

  /** @param firstBatch the batch the first published policy trains on (its iteration) */
  constructor(firstBatch: number, options: TaskBookOptions) {
    this.#nextBatch = firstBatch;
    this.#options = options;
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

  /** Answers of the evaluation, less tasks set aside, once all are in; then forgets it. */
  takeEvaluation(): TrajectoryGroup[] | null {
    if (this.#evaluation === null || this.#evaluation.missing > 0) return null;
    const groups = this.#evaluation.groups.filter((group) => group !== undefined);
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
   * @param kind default: either
   */
  lease(actorId: string, free: number, nowMs: number, othersLive: boolean, kind?: Task["kind"]): Task | null {
    let best: Entry | null = null;
    const holdsSuspect = [...this.#live.values()].some((entry) => entry.holder === actorId && entry.deaths > 0);
    for (const entry of this.#live.values()) {
      if (entry.holder !== null || entry.task.groupSize > free) continue;
      if (kind !== undefined && entry.task.kind !== kind) continue;
      if (entry.deaths > 0 && holdsSuspect) continue;
      if (othersLive && entry.failedOn === actorId) continue;
      if (best === null || isMoreUrgent(entry, best)) best = entry;
    }
    if (best === null) return null;
    const { task } = best;
    if (task.kind === "train" && this.#current < task.batch - this.#options.maxStaleness)
      throw new Error(`pacing is broken: ${task.taskId} at iteration ${this.#current}`);
    best.holder = actorId;
    best.askedOf.add(actorId);
    best.leasedMs = nowMs;
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

  /**
   * Gives back leases of tasks that never reached the actor, by what it says it holds.
   * @returns how many
   */
  releaseLost(actorId: string, held: readonly string[], nowMs: number): number {
    const holds = new Set(held);
    const isLost = ({ holder, leasedMs, task }: Entry): boolean =>
      holder === actorId && nowMs - leasedMs > IN_TRANSIT_MS && !holds.has(task.taskId);
    return this.#release(isLost).length;
  }

  /** Gives back all leases of an actor that left in good order. @returns how many */
  releaseActor(actorId: string): number {
    return this.#release((entry) => entry.holder === actorId).length;
  }

  /**
   * Gives back all leases of an actor that died or hung.
   * Suspects among them are to blame; where there is none, all of them become suspects.
   * @returns how many leases, and the tasks that have now cost too many actors
   */
  releaseDead(actorId: string): { released: number; poisonous: string[] } {
    return this.#blame((entry) => entry.holder === actorId);
  }

  /** Gives back leases that ran out, as `releaseDead` does. */
  releaseExpired(nowMs: number): { released: number; poisonous: string[] } {
    const holders = new Set<string>();
    for (const { holder, expiresMs } of this.#live.values())
      if (holder !== null && expiresMs <= nowMs) holders.add(holder);
    const all = [...holders].map((holder) =>
      this.#blame((entry) => entry.holder === holder && entry.expiresMs <= nowMs),
    );
    return {
      released: all.reduce((sum, { released }) => sum + released, 0),
      poisonous: all.flatMap(({ poisonous }) => poisonous),
    };
  }

  /** Moves all leases' ends, after time in which nobody could work. */
  extend(byMs: number): void {
    for (const entry of this.#live.values()) entry.expiresMs += byMs;
  }

  /** Takes a task out: training gets a fresh one in its place, an evaluation goes on without it. */
  setAside(taskId: string): void {
    const entry = this.#finish(taskId);
    if (entry?.task.kind === "eval") this.#evaluation!.missing--;
    else if (entry !== undefined) this.#substitute(entry);
  }

  /** Gives back one lease, if this actor holds it (its answer was refused). */
  release(taskId: string, actorId: string): void {
    this.#release((entry) => entry.task.taskId === taskId && entry.holder === actorId);
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
    const entry = this.#finish(group.taskId);
    if (entry === undefined) throw new Error(`${group.taskId} is not an unanswered task`);
    const { task, slot, replacement } = entry;
    const batch = this.#batches.get(task.batch);
    if (task.kind === "train" && replacement < this.#options.maxReplacements && this.#options.rewardsEqual(group)) {
      batch!.filtered++;
      this.#substitute(entry);
      return true;
    }
    const asked = task.kind === "eval" ? this.#evaluation! : batch!;
    asked.groups[slot] = group;
    asked.missing--;
    return false;
  }

  #finish(taskId: string): Entry | undefined {
    const entry = this.#live.get(taskId);
    if (this.#live.delete(taskId)) this.#finished.add(taskId);
    return entry;
  }

  /** Asks a fresh task in place of one that is finished. */
  #substitute({ task, slot, replacement }: Entry): void {
    const fresh = this.#options.taskAt(task.batch, slot, replacement + 1);
    this.#batches.get(task.batch)!.tasks[slot] = fresh;
    this.#addEntry(fresh, slot, replacement + 1);
  }

  #openBatch(k: number): void {
    const count = this.#options.groupsPerBatch;
    const tasks = Array.from({ length: count }, (_, slot) => this.#options.taskAt(k, slot, 0));
    this.#batches.set(k, { tasks, groups: tasks.map(() => undefined), missing: count, filtered: 0 });
    tasks.forEach((task, slot) => this.#addEntry(task, slot, 0));
  }

  #addEntry(task: Task, slot: number, replacement: number): void {
    if (this.find(task.taskId) !== null) throw new Error(`task id ${task.taskId} is used twice`);
    const never = { holder: null, askedOf: new Set<string>(), leasedMs: 0, expiresMs: 0, failedOn: null };
    const order = this.#orders++;
    this.#live.set(task.taskId, { task, slot, replacement, order, ...never, returned: false, deaths: 0 });
  }

  #blame(matches: (entry: Entry) => boolean): { released: number; poisonous: string[] } {
    const released = this.#release(matches);
    const suspects = released.filter(({ deaths }) => deaths > 0);
    for (const entry of suspects.length > 0 ? suspects : released) entry.deaths++;
    const poisonous = released.filter(({ deaths }) => deaths >= MAX_DEATHS).map(({ task }) => task.taskId);
    return { released: released.length, poisonous };
  }

  #release(matches: (entry: Entry) => boolean): Entry[] {
    const released = [...this.#live.values()].filter(matches);
    for (const entry of released) {
      entry.failedOn = entry.holder;
      entry.holder = null;
      entry.returned = true;
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
