/**
 * The learner, whole: rollouts in, updates, weights out, evaluation, checkpoints, metrics.
 *
 *   publish(0) ─▶ evaluate ─▶ [ batch(k) ─▶ update ─▶ publish(k + 1) ─▶ metrics, evaluation,
 *   checkpoint ] ─▶ evaluate
 *
 * While batch k is learned from, actors sample batch k + 1 (bounded by max_staleness). Knows the
 * order of things; knows no formulas and no sockets.
 */
import { performance } from "node:perf_hooks";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { readModelConfig, type ModelConfig } from "../model/config.js";
import type { PolicyVersion } from "../model/identity.js";
import { layoutSize } from "../model/layout.js";
import type { ProgressEvent, RunSummary, Validation } from "../protocol/progress.js";
import { resumable } from "../run/checkpoint.js";
import { recordIncident } from "../run/incidents.js";
import { runInputs } from "../run/inputs.js";
import { thinJournal } from "../run/journal.js";
import { trajectoriesFolder } from "../run/paths.js";
import {
  appendMetrics,
  appendValidation,
  appendWeights,
  currentCommit,
  dropLinesAfter,
  flushRecords,
  writeSummary,
} from "../run/records.js";
import { rolloutMetrics } from "./algorithms/metrics.js";
import { Updater } from "./algorithms/update.js";
import { type BackendInfo, describeBackend, startBackend } from "./backend/backend.js";
import { GapMeter, SELFTEST_COMPLETIONS, checkGap, describeGap } from "./logprob-gap.js";
import { TrainableModel, baseFromFolder } from "./policy/model.js";
import type { RolloutSource, TrainingBatch } from "./rollouts/rollout-source.js";
import { unlessStopped } from "./stop.js";
import { Checkpoints } from "./training-state.js";
import { validate } from "./validation.js";

export interface LearnerOptions {
  readonly runDir: string;
  /** Continue from the last checkpoint; from the start when there is none yet. */
  readonly resume: boolean;
  /** One process, strictly on-policy. */
  readonly serial: boolean;
  readonly threads: number;
  readonly send: (event: ProgressEvent) => void;
  /** Aborted to end early: the iteration at hand is finished, then a checkpoint is written. */
  readonly stop: AbortSignal;
  /** `checkpoint` is set when one is wanted soon, and cleared when it is written. */
  readonly requests: { checkpoint: boolean };
}

/** Completions per iteration on which actor and learner log-probabilities are compared. */
const GAP_COMPLETIONS = 4;

/** Runs until `max_steps` or a stop; the last event sent is "done". */
export async function runLearner(run: RunConfig, options: LearnerOptions): Promise<void> {
  const { runDir, send } = options;
  send({ type: "phase", name: "loading the model" });
  const backend = await openBackend(run, options);
  const { tf } = backend;
  const shape = readModelConfig(run.model.path);
  const onNote = (message: string): void => {
    recordIncident(runDir, "learner", message);
    send({ type: "log", message });
  };
  const checkpoints = new Checkpoints(runDir, options.resume ? resumable(runDir, onNote) : null);
  const base = baseFromFolder(run.model.path, shape);
  const model = new TrainableModel(tf, shape, run, base, checkpoints.weights);
  checkpoints.compare(runInputs(run, model.frozenSha256), onNote);
  const updater = new Updater({ tf, run, model });
  checkpoints.restore(updater);
  dropLinesAfter(runDir, checkpoints.counters.iteration);
  const source = await openSource(onNote, run, options, shape, model, checkpoints.counters.iteration);
  try {
    await new TrainingLoop(run, options, { updater, checkpoints, source, backend }).run();
  } finally {
    await source.close();
  }
}

async function openBackend(run: RunConfig, { threads, send }: LearnerOptions): Promise<BackendInfo> {
  const backend = await startBackend(run.learner.backend, threads, run.learner.matmul);
  if (run.learner.device === "cuda" && !backend.usesGpu)
    throw new UserError(
      `learner.device is cuda, but ${backend.library} found no GPU it can use. Run node dist/cli.js doctor --cuda; the learner's log has TensorFlow's own reasons.`,
    );
  for (const reason of backend.why)
    send({ type: "log", message: `learner backend ${backend.name}; passed over ${reason}` });
  return backend;
}

/** Starts the dispatcher thread, or with --serial an engine in this process. */
async function openSource(
  onNote: (message: string) => void,
  run: RunConfig,
  { runDir, serial, threads, send }: LearnerOptions,
  shape: ModelConfig,
  model: TrainableModel,
  firstIteration: number,
): Promise<RolloutSource> {
  if (serial) {
    const { startSerialSource } = await import("./rollouts/start-serial.js");
    return startSerialSource(run, { runDir, firstIteration, shape, threads, note: onNote });
  }
  const { RemoteSource } = await import("./rollouts/remote-source.js");
  const layout = model.publishedLayout;
  const baseSha256 = run.lora.enabled ? model.frozenSha256 : null;
  const remote = await RemoteSource.start({ run, runDir, firstIteration, layout, baseSha256, onNote });
  send({ type: "listening", ...remote.addresses, token: remote.token });
  return remote;
}

interface Parts {
  readonly updater: Updater;
  readonly checkpoints: Checkpoints;
  readonly source: RolloutSource;
  readonly backend: BackendInfo;
}

class TrainingLoop {
  readonly #run: RunConfig;
  readonly #options: LearnerOptions;
  readonly #parts: Parts;
  readonly #gap: GapMeter;

  constructor(run: RunConfig, options: LearnerOptions, parts: Parts) {
    this.#run = run;
    this.#options = options;
    this.#parts = parts;
    this.#gap = new GapMeter(parts.updater.policy.training);
  }

  async run(): Promise<void> {
    const { send, stop } = this.#options;
    const { counters } = this.#parts.checkpoints;
    const { publishedLayout } = this.#parts.updater.policy.training.model;
    await this.#publish();
    const { library: backend } = this.#parts.backend;
    send({ type: "ready", backend, parameters: layoutSize(publishedLayout), iteration: counters.iteration });
    await this.#selfTest();
    if (counters.iteration === 0) counters.before = (await this.#validate("before")) ?? {};
    while (counters.iteration < this.#run.max_steps && !stop.aborted) {
      if (!(await this.#iterate())) break;
      await this.#betweenIterations();
    }
    await this.#save();
    const after = stop.aborted ? null : await this.#validate("after");
    const summary = this.#summary(after);
    writeSummary(this.#options.runDir, summary);
    // Sent before the actors are told to go: the launcher must not take their going for a failure.
    send({ type: "done", summary });
  }

  /** Trains on one batch. @returns false when the run was asked to stop before it was there */
  async #iterate(): Promise<boolean> {
    const { counters } = this.#parts.checkpoints;
    const begin = performance.now();
    const batch = await this.#nextBatch();
    if (batch === null) return false;
    const waited = (performance.now() - begin) / 1000;
    const trained = counters.iteration;
    const { metrics, advantages } = await this.#parts.updater.update(batch, trained);
    const gap = await this.#gap.measure(batch.tasks, batch.groups, GAP_COMPLETIONS);
    counters.iteration++;
    const version = await this.#publish();
    await this.#parts.source.recordAdvantages(batch.batch, advantages);
    const seconds = (performance.now() - begin) / 1000;
    counters.trainSeconds += seconds;
    const times = { seconds, waited, wall: this.#parts.checkpoints.wallSeconds };
    const line = {
      iteration: counters.iteration,
      ...metrics,
      ...rolloutMetrics(this.#run, batch, trained, gap, times),
      ...(await this.#parts.source.stats()),
    };
    appendMetrics(this.#options.runDir, line);
    appendWeights(this.#options.runDir, version);
    const { iteration } = counters;
    this.#options.send({ type: "iteration", iteration, maxSteps: this.#run.max_steps, metrics: line });
    return true;
  }

  /**
   * The batch to train on, null when the run was asked to stop before it was there.
   * Where none can be had, the run ends; what was learned is saved, if the disk takes it.
   */
  async #nextBatch(): Promise<TrainingBatch | null> {
    const { iteration } = this.#parts.checkpoints.counters;
    try {
      const batch = await unlessStopped(() => this.#parts.source.batch(iteration), this.#options.stop);
      if (batch !== null) checkRewardErrors(batch, this.#run);
      return batch;
    } catch (error) {
      if (iteration > 0 && !this.#parts.checkpoints.isSaved)
        await this.#parts.checkpoints.save(this.#run, this.#parts.updater).catch(() => {});
      throw error;
    }
  }

  /** Evaluates and saves where it is time for it; the last iteration does both later. */
  async #betweenIterations(): Promise<void> {
    const { eval_steps: evalSteps, save_steps: saveSteps, max_steps: maxSteps } = this.#run;
    const { iteration } = this.#parts.checkpoints.counters;
    if (iteration === maxSteps) return;
    const isDue = (every: number): boolean => every > 0 && iteration % every === 0;
    if (this.#options.requests.checkpoint) await this.#save();
    if (isDue(evalSteps) && !this.#options.stop.aborted) {
      const validation = await this.#validate(iteration);
      if (validation !== null) appendValidation(this.#options.runDir, iteration, validation);
    }
    if (isDue(saveSteps)) await this.#save();
  }

  async #publish(): Promise<PolicyVersion> {
    const { iteration } = this.#parts.checkpoints.counters;
    const published = await this.#parts.updater.policy.training.model.published();
    const version = await this.#parts.source.publish(published, iteration);
    this.#gap.remember(iteration, published);
    return version;
  }

  async #selfTest(): Promise<void> {
    const { iteration } = this.#parts.checkpoints.counters;
    const request = { iteration, mode: "sampled", n: SELFTEST_COMPLETIONS, purpose: "selftest" } as const;
    this.#options.send({ type: "phase", name: "comparing actor and learner" });
    const answers = await unlessStopped(() => this.#parts.source.evaluate(request), this.#options.stop);
    if (answers === null) return;
    const gap = await this.#gap.measure(answers.tasks, answers.groups);
    checkGap(gap, this.#run.selftest);
    if (gap !== null)
      this.#options.send({
        type: "log",
        message: describeGap(gap, this.#run.actors.dtype, this.#parts.backend.matmul),
      });
  }

  #validate(when: "before" | "after" | number): Promise<Validation | null> {
    const { send, stop } = this.#options;
    return validate(this.#run, this.#parts.checkpoints.counters.iteration, when, {
      source: this.#parts.source,
      send,
      stop,
    });
  }

  async #save(): Promise<void> {
    this.#options.requests.checkpoint = false;
    if (this.#parts.checkpoints.isSaved) return;
    this.#options.send({ type: "phase", name: "writing a checkpoint" });
    await this.#parts.source.flush();
    flushRecords(this.#options.runDir);
    await this.#parts.checkpoints.save(this.#run, this.#parts.updater);
    const { keep } = this.#run.journal;
    const { runDir } = this.#options;
    if (keep !== null) thinJournal(trajectoriesFolder(runDir), this.#parts.checkpoints.counters.iteration - keep);
  }

  #summary(after: Validation | null): RunSummary {
    const { counters, wallSeconds, newest } = this.#parts.checkpoints;
    return {
      algo: this.#run.algo,
      validation: { before: counters.before, ...(after !== null && { after }) },
      iterations: counters.iteration,
      wall_seconds: wallSeconds,
      train_seconds: counters.trainSeconds,
      backend: describeBackend(this.#parts.backend),
      commit: currentCommit(),
      checkpoint: newest,
      stopped: after === null,
    };
  }
}

/** @throws UserError when more reward calls of a batch failed than reward.max_error_rate allows */
function checkRewardErrors(batch: TrainingBatch, run: RunConfig): void {
  const completions = batch.groups.flatMap((group) => group.completions);
  const errors = completions.flatMap((completion) => completion.rewardErrors);
  const rate = completions.filter((completion) => completion.rewardErrors.length > 0).length / completions.length;
  if (rate <= run.reward.max_error_rate) return;
  const counts = new Map<string, number>();
  for (const error of errors) counts.set(error, (counts.get(error) ?? 0) + 1);
  const most = [...counts]
    .sort((a, b) => b[1] - a[1])
    .slice(0, 3)
    .map(([error, n]) => `${n} × ${error}`);
  throw new UserError(
    `reward functions failed on ${(100 * rate).toFixed(1)} % of a batch's completions, more than reward.max_error_rate ` +
      `(${100 * run.reward.max_error_rate} %): ${most.join("; ")}. Mend the reward function, or raise the limit.`,
  );
}
