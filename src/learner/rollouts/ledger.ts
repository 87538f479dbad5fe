/** What counts as experience: the task is open, the weights fresh enough, the journal has it. */
import type { PolicyVersion } from "../../model/identity.js";
import type { Task, TrajectoryGroup } from "../../protocol/messages.js";
import { Journal, recoverJournal } from "../../run/journal.js";
import { trajectoriesFolder } from "../../run/paths.js";
import { groupFault, type GroupRules } from "./group-rules.js";
import { type FinishedBatch, type TaskBookOptions, TaskBook } from "./task-book.js";

/** Level, message and fields of a log line. */
export type Log = (level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>) => void;

export interface LedgerOptions extends TaskBookOptions {
  /** Completed training iterations at the start: 0, or the checkpoint's when resuming. */
  readonly firstIteration: number;
  readonly rules: GroupRules;
  readonly runDir: string;
  readonly log: Log;
  /** Shows the user a thing that went wrong and was dealt with. */
  readonly note: (message: string) => void;
  /** Told about failures that no caller waits for, such as a full disk. */
  readonly onFatal: (error: unknown) => void;
}

export type Verdict =
  | { readonly kind: "accepted" }
  | { readonly kind: "duplicate" }
  | { readonly kind: "refused"; readonly reason: string };

/** A task answered wrongly this often will not be answered rightly: the run stops and says why. */
const MAX_REFUSALS = 5;

/** Names of running totals; more of them would make each line of the metrics longer for ever. */
const MAX_COUNTERS = 200;

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}

export class Ledger {
  readonly book: TaskBook;
  readonly options: LedgerOptions;
  readonly #journal: Journal;
  readonly #known = new Map<number, string>();
  readonly #refusals = new Map<string, number>();
  readonly #counters = new Map<string, number>();
  readonly #batchWaiters = new Map<number, Waiter<FinishedBatch>>();
  #evaluationWaiter: (Waiter<TrajectoryGroup[]> & { readonly onDone: (done: number) => void; total: number }) | null =
    null;

  constructor(options: LedgerOptions) {
    this.options = options;
    this.book = new TaskBook(options.firstIteration, options);
    this.#journal = new Journal(trajectoriesFolder(options.runDir), options.onFatal);
  }

  /** Adds to a running total. Names are snake_case; they end up in the metrics. */
  count(name: string, n = 1): void {
    // an actor makes up the names of its own
    const known = this.#counters.has(name) || this.#counters.size < MAX_COUNTERS ? name : "counters_beyond_limit";
    this.#counters.set(known, (this.#counters.get(known) ?? 0) + n);
  }

  /** Says a thing that went wrong and was dealt with, to the log and to the user. */
  note(message: string): void {
    this.options.log("warn", message);
    this.options.note(message);
  }

  get totals(): Record<string, number> {
    return Object.fromEntries(this.#counters);
  }

  /** Makes a policy current; the first call also takes back the journal's untrained batches. */
  publish(version: PolicyVersion): void {
    if (this.#evaluationWaiter !== null)
      throw new Error("a policy was published while the one before was being evaluated");
    const isFirst = this.#known.size === 0;
    this.#known.set(version.iteration, version.sha256);
    this.book.advance(version.iteration);
    if (isFirst) this.#recover(version);
    this.#journal.closeBefore(version.iteration - 1).catch(this.options.onFatal);
    this.#settle();
  }

  /** Judges an answer; when accepted, it is in the journal on return. */
  receive(group: TrajectoryGroup): Verdict {
    const task = this.book.find(group.taskId);
    if (task === "finished") {
      this.count("groups_duplicate");
      return { kind: "duplicate" };
    }
    if (task === null || !this.book.wasAskedOf(group.taskId, group.actorId)) {
      this.count("groups_refused_unknown_task");
      return { kind: "refused", reason: "no such task was asked of this actor" };
    }
    const fault = this.#faultOf(task, group);
    if (fault !== null) return this.refuse(group, fault.counter, fault.reason);
    if (task.kind === "train") this.#journal.append(task.batch, { type: "trajectory", task, group });
    this.#accept(group);
    this.count("groups_received");
    return { kind: "accepted" };
  }

  /** Counts a refused answer; its task opens again if it was asked of this actor. */
  refuse(group: { taskId: string; actorId: string }, counter: string, reason: string): Verdict {
    const { taskId, actorId } = group;
    this.count(counter);
    if (!this.book.wasAskedOf(taskId, actorId)) return { kind: "refused", reason };
    this.book.release(taskId, actorId);
    this.options.log("warn", "trajectory group refused", { taskId, actorId, reason });
    const times = (this.#refusals.get(taskId) ?? 0) + 1;
    this.#refusals.set(taskId, times);
    if (times >= MAX_REFUSALS)
      this.options.onFatal(new Error(`task ${taskId} was answered ${times} times and refused each time: ${reason}`));
    return { kind: "refused", reason };
  }

  /** Takes a task out of the run, and remembers it: a resumed run does not ask it again. */
  setAside(taskId: string): void {
    const task = this.book.find(taskId);
    if (task === null || task === "finished") return;
    this.count("tasks_set_aside");
    if (task.kind === "train") this.#journal.append(task.batch, { type: "setAside", taskId });
    this.book.setAside(taskId);
    this.#settle();
  }

  /** Resolves when all groups of batch k are accepted. */
  batch(k: number): Promise<FinishedBatch> {
    return new Promise((resolve, reject) => {
      if (!this.book.mayBecomeReady(k)) throw new Error(`batch ${k} was trained on already or is beyond max_steps`);
      this.#batchWaiters.set(k, { resolve, reject });
      this.#settle();
    });
  }

  /** Resolves with the answers in task order; `onDone` gets the number so far. */
  evaluate(tasks: readonly Task[], onDone: (done: number) => void): Promise<TrajectoryGroup[]> {
    return new Promise((resolve, reject) => {
      this.book.addEvaluation(tasks);
      this.#evaluationWaiter = { resolve, reject, onDone, total: tasks.length };
      this.#settle();
    });
  }

  /** @param advantages by task id: one [T] array per completion */
  recordAdvantages(k: number, advantages: Iterable<readonly [string, readonly Float32Array[]]>): void {
    for (const [taskId, rows] of advantages) this.#journal.append(k, { type: "advantages", taskId, advantages: rows });
  }

  flush(): Promise<void> {
    return this.#journal.flush();
  }

  /** Ends all waits with `error` and closes the journal. */
  async close(error: Error = new Error("the rollout source was closed")): Promise<void> {
    for (const waiter of this.#batchWaiters.values()) waiter.reject(error);
    this.#batchWaiters.clear();
    this.#evaluationWaiter?.reject(error);
    this.#evaluationWaiter = null;
    await this.#journal.close();
  }

  #faultOf(task: Task, group: TrajectoryGroup): { counter: string; reason: string } | null {
    const fault = groupFault(task, group, this.options.rules);
    if (fault !== null) return { counter: "groups_refused_malformed", reason: fault };
    for (const { version } of group.completions) {
      const { iteration, sha256 } = version;
      const known = this.#known.get(iteration);
      if (known !== sha256)
        return {
          counter: "groups_refused_unknown_weights",
          reason: `sampled by unknown weights ${sha256.slice(0, 12)} (iteration ${iteration}; known: ${known?.slice(0, 12) ?? "none"})`,
        };
      const tooOld = iteration < task.minIteration || (task.kind === "eval" && iteration !== task.batch);
      if (tooOld)
        return {
          counter: "groups_refused_stale",
          reason: `sampled by iteration ${iteration}, expected ${task.kind === "eval" ? "exactly" : "at least"} ${task.minIteration}`,
        };
    }
    return null;
  }

  #accept(group: TrajectoryGroup): void {
    if (this.book.complete(group)) this.count("groups_filtered");
    this.#refusals.delete(group.taskId);
    this.#settle();
  }

  #recover(version: PolicyVersion): void {
    const keep = (task: Task, group: TrajectoryGroup): boolean => {
      const open = this.book.find(group.taskId);
      if (open === null || open === "finished" || !samePrompt(open, task)) return false;
      // Older policies were checked on arrival; later ones never happened in this history.
      for (const { version: v } of group.completions)
        if (v.iteration < version.iteration) this.#known.set(v.iteration, v.sha256);
      if (this.#faultOf(open, group) !== null) return false;
      this.#accept(group);
      return true;
    };
    const setAside = (taskId: string): void => this.book.setAside(taskId);
    const directory = trajectoriesFolder(this.options.runDir);
    const { kept, discarded, tornTails, damaged } = recoverJournal(directory, version.iteration, keep, setAside);
    for (const { file, records } of damaged)
      this.note(`${file}: ${records} damaged records are left out; their tasks are asked again.`);
    if (kept + discarded + tornTails + damaged.length === 0) return;
    this.count("journal_groups_reused", kept);
    this.count("journal_groups_discarded", discarded);
    this.count("journal_torn_tails", tornTails);
    const lost = damaged.reduce((sum, { records }) => sum + records, 0);
    this.count("journal_records_damaged", lost);
    this.options.log("info", "journal recovered", { iteration: version.iteration, kept, discarded, tornTails });
  }

  /** Wakes whoever waits for what has become complete. */
  #settle(): void {
    for (const [k, waiter] of this.#batchWaiters) {
      const batch = this.book.finishedBatch(k);
      if (batch === null) continue;
      this.#batchWaiters.delete(k);
      waiter.resolve(batch);
    }
    const waiter = this.#evaluationWaiter;
    if (waiter === null) return;
    waiter.onDone(waiter.total - this.book.evaluationMissing);
    const groups = this.book.takeEvaluation();
    if (groups === null) return;
    this.#evaluationWaiter = null;
    waiter.resolve(groups);
  }
}

const samePrompt = (a: Task, b: Task): boolean => a.seed === b.seed && a.promptIds.join() === b.promptIds.join();
