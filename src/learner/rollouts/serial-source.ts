/** Rollouts of `--serial`: an engine in this process, strictly on-policy, as a reference. */
import { existsSync, rmSync } from "node:fs";
import type { Engine, GeneratedGroup } from "../../engine/engine-types.js";
import type { PolicyVersion } from "../../model/identity.js";
import type { Task, TrajectoryGroup } from "../../protocol/messages.js";
import { batchFile, readBatchFile } from "../../run/journal.js";
import { trajectoriesFolder } from "../../run/paths.js";
import { Ledger, type LedgerOptions } from "./ledger.js";
import type { Evaluation, EvaluationRequest, RolloutSource, TrainingBatch } from "./rollout-source.js";
import { TaskBook } from "./task-book.js";

export interface SerialSourceOptions extends Omit<LedgerOptions, "maxStaleness" | "leaseMs" | "onFatal"> {
  readonly engine: Engine;
  /** Completions in flight: the engine's maxRows. */
  readonly maxRows: number;
  readonly evalTasks: (request: EvaluationRequest) => readonly Task[];
  readonly score: (task: Task, generated: GeneratedGroup, actorId: string) => Promise<TrajectoryGroup>;
}

const ACTOR_ID = "serial";

export class SerialSource implements RolloutSource {
  readonly #options: SerialSourceOptions;
  readonly #ledger: Ledger;
  #failure: Error | null = null;
  #busyMs = 0;
  #idleMs = 0;
  #idleSinceMs = performance.now();

  constructor(options: SerialSourceOptions) {
    this.#options = options;
    const onFatal = (error: unknown) => {
      this.#failure ??= error instanceof Error ? error : new Error(String(error));
    };
    // No lease can run out here, and no policy but the current one samples.
    const rules = { ...options, maxStaleness: 0, leaseMs: Infinity, onFatal };
    this.#ledger = new Ledger(rules);
    dropUnfinishedBatch(rules, this.#ledger);
  }

  async publish(packed: Float32Array, iteration: number): Promise<PolicyVersion> {
    const version = await this.#options.engine.load(packed, iteration);
    this.#ledger.publish(version);
    return version;
  }

  async batch(k: number): Promise<TrainingBatch> {
    const [finished] = await Promise.all([this.#ledger.batch(k), this.#answerAll("train")]);
    const times = { actorBusySeconds: this.#busyMs / 1_000, actorIdleSeconds: this.#idleMs / 1_000 };
    this.#busyMs = 0;
    this.#idleMs = 0;
    return { batch: k, ...finished, ...times };
  }

  async evaluate(
    request: EvaluationRequest,
    onDone: (done: number, total: number) => void = () => {},
  ): Promise<Evaluation> {
    const tasks = this.#options.evalTasks(request);
    const report = (done: number): void => onDone(done, tasks.length);
    report(0);
    const [groups] = await Promise.all([this.#ledger.evaluate(tasks, report), this.#answerAll("eval")]);
    return { tasks, groups };
  }

  async recordAdvantages(k: number, advantages: ReadonlyMap<string, readonly Float32Array[]>): Promise<void> {
    this.#ledger.recordAdvantages(k, advantages);
  }

  flush(): Promise<void> {
    return this.#ledger.flush();
  }

  async stats(): Promise<Record<string, number>> {
    return this.#ledger.totals;
  }

  async close(): Promise<void> {
    await this.#ledger.close();
    await this.#options.engine.dispose();
  }

  /**
   * Samples until no task of that kind is open. Kinds never share a batch of the engine: a resumed
   * run tests itself again, and what is sampled beside a completion changes how sums are rounded.
   */
  async #answerAll(kind: Task["kind"]): Promise<void> {
    const { engine, maxRows, score } = this.#options;
    const { book } = this.#ledger;
    const startMs = performance.now();
    this.#idleMs += startMs - this.#idleSinceMs;
    const asked = new Map<string, Task>();
    for (;;) {
      let task: Task | null;
      while ((task = book.lease(ACTOR_ID, maxRows - book.leasedCompletions(ACTOR_ID), 0, false, kind)) !== null) {
        asked.set(task.taskId, task);
        const { taskId: requestId, promptIds, groupSize, seed, sampling } = task;
        engine.submit({ requestId, promptIds, groupSize, seed, sampling });
      }
      if (engine.pending === 0) break;
      for (const generated of await engine.step()) {
        const group = await score(asked.get(generated.requestId)!, generated, ACTOR_ID);
        const verdict = this.#ledger.receive(group);
        if (verdict.kind === "refused") throw new Error(`${group.taskId}: ${verdict.reason}`);
      }
      if (this.#failure !== null) throw this.#failure;
    }
    this.#idleSinceMs = performance.now();
    this.#busyMs += this.#idleSinceMs - startMs;
  }
}

/**
 * Removes the first batch from the journal where it is not whole: it is sampled anew, all at once.
 * The missing groups alone would be sampled in other company, which changes how sums are rounded.
 */
function dropUnfinishedBatch(options: LedgerOptions, ledger: Ledger): void {
  const { runDir, firstIteration } = options;
  const file = batchFile(trajectoriesFolder(runDir), firstIteration);
  if (!existsSync(file)) return;
  const book = new TaskBook(firstIteration, options);
  book.advance(firstIteration);
  const { records, damagedRecords } = readBatchFile(file);
  for (const record of records) {
    if (record.type === "setAside") book.setAside(record.taskId);
    if (record.type !== "trajectory") continue;
    const open = book.find(record.group.taskId);
    if (open !== null && open !== "finished") book.complete(record.group);
  }
  if (book.finishedBatch(firstIteration) !== null) return;
  ledger.count("journal_groups_discarded", records.length);
  if (damagedRecords > 0) ledger.note(`${file}: ${damagedRecords} damaged records; the batch is sampled again.`);
  rmSync(file);
}
