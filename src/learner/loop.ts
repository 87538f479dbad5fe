/**
 * The learner, whole: model and backend, rollouts in, updates, weights out, evaluation,
 * checkpoints, metrics.
 *
 *   publish(0) ─▶ evaluate ─▶ [ batch(k) ─▶ update ─▶ publish(k + 1) ─▶ metrics, evaluation, checkpoint ] ─▶ evaluate
 *
 * While the update of batch k runs, actors sample batch k + 1 (bounded by max_staleness).
 * Knows the order of things; knows no formulas and no sockets.
 */
import { appendFileSync } from "node:fs";
import { join, relative } from "node:path";
import { performance } from "node:perf_hooks";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { wilsonInterval } from "../math/statistics.js";
import { readModelConfig } from "../model/config.js";
import { layoutSize } from "../model/layout.js";
import type { Accuracy, ProgressEvent, RunSummary, Validation } from "../protocol/progress.js";
import { startBackend } from "./backend/backend.js";
import {
  checkpointName,
  listCheckpoints,
  loadTrainingState,
  pruneCheckpoints,
  saveCheckpoint,
} from "../run/checkpoint.js";
import { LogprobGap, checkGap } from "./logprob-gap.js";
import { TrainableModel, baseFromFolder } from "./policy/model.js";
import type { RolloutSource, TrainingBatch } from "./rollouts/rollout-source.js";
import { currentCommit, keepLinesUpTo, writeWhole } from "../run/write.js";
import { TaskSource } from "./rollouts/task-source.js";
import { Updater } from "./algorithms/update.js";

export interface LearnerOptions {
  readonly runDir: string;
  /** Continue from the last checkpoint (from the start when there is none yet). */
  readonly resume: boolean;
  /** One process, strictly on-policy. */
  readonly serial: boolean;
  readonly threads: number;
  readonly send: (event: ProgressEvent) => void;
  /**
   * Aborted when the run is to end early: the iteration at hand is finished, then a checkpoint is
   * written.
   */
  readonly stop: AbortSignal;
}

/** What a checkpoint remembers beside weights and optimizer. */
interface LoopState {
  readonly iteration: number;
  readonly optimizerSteps: number;
  readonly klCoef: number;
  readonly skippedUpdates: number;
  readonly wallSeconds: number;
  readonly trainSeconds: number;
  readonly before: Validation;
}

/**
 * Completions of the start-up self-test: fixed prompts, answered by the actors, compared before
 * anything is trained.
 */
const SELFTEST_COMPLETIONS = 32;
/** Completions per iteration on which actor and learner log-probabilities are compared. */
const GAP_COMPLETIONS = 4;

/** Runs until `max_steps` or a stop; the last event sent is "done". */
export async function runLearner(run: RunConfig, options: LearnerOptions): Promise<void> {
  const { runDir, send, stop } = options;
  const started = performance.now();
  send({ type: "phase", name: "loading the model" });
  const backend = await startBackend(run.learner.backend, options.threads);
  const { tf } = backend;
  if (run.learner.device === "cuda" && !backend.usesGpu)
    throw new UserError(
      `learner.device is cuda, but ${backend.library} found no GPU it can use. Run node dist/cli.js doctor --cuda; the learner's log has TensorFlow's own reasons.`,
    );
  for (const reason of backend.why)
    send({ type: "log", message: `learner backend ${backend.name}; passed over ${reason}` });
  const config = readModelConfig(run.model.path);
  const checkpoints = join(runDir, "checkpoints");
  const last = options.resume ? listCheckpoints(checkpoints).at(-1) : undefined;
  const state = last === undefined ? null : loadTrainingState(join(checkpoints, checkpointName(last)));
  const saved = state === null ? null : (state.values as unknown as LoopState);
  const model = new TrainableModel(
    tf,
    config,
    run,
    baseFromFolder(run.model.path, config),
    state?.vectors.weights ?? null,
  );
  const updater = new Updater(tf, run, model);
  if (state !== null && saved !== null) {
    updater.optimizer.restore({ step: saved.optimizerSteps, m: state.vectors.adam_m!, v: state.vectors.adam_v! });
    updater.klCoef = saved.klCoef;
    updater.skippedUpdates = saved.skippedUpdates;
  }
  let iteration = saved?.iteration ?? 0;
  let trainSeconds = saved?.trainSeconds ?? 0;
  let before: Validation = saved?.before ?? {};
  const wallSeconds = (): number => (saved?.wallSeconds ?? 0) + (performance.now() - started) / 1000;
  const metricsFile = join(runDir, "metrics.jsonl");
  const validationFile = join(runDir, "validation.jsonl");
  for (const file of [metricsFile, validationFile]) keepLinesUpTo(file, iteration);

  const tasks = TaskSource.open(run);
  let source: RolloutSource;
  if (options.serial) {
    const { startSerialSource } = await import("./rollouts/start-serial.js");
    source = await startSerialSource(run, {
      runDir,
      firstIteration: iteration,
      config,
      threads: options.threads,
      tasks,
    });
  } else {
    const { RemoteSource } = await import("./rollouts/remote-source.js");
    const remote = await RemoteSource.start({
      config: run,
      runDir,
      firstIteration: iteration,
      layout: model.publishedLayout,
      baseSha256: run.lora.enabled ? model.frozenSha256 : null,
    });
    send({ type: "listening", ...remote.addresses });
    source = remote;
  }

  try {
    const gap = new LogprobGap(updater, run.max_staleness);
    const publish = async (): Promise<void> => {
      const published = await model.published();
      await source.publish(published, iteration);
      gap.remember(iteration, published);
    };
    await publish();
    send({ type: "ready", backend: backend.library, parameters: layoutSize(model.publishedLayout), iteration });

    /** Null when the run was asked to stop meanwhile. */
    const evaluate = async (when: "before" | "after" | number): Promise<Validation | null> => {
      const result: { sampled?: Accuracy; greedy?: Accuracy } = {};
      for (const mode of ["sampled", "greedy"] as const) {
        if (!run.eval[mode]) continue;
        const asked = tasks.evalTasks(iteration, run.eval.num_problems, mode);
        const report = (done: number): void =>
          send({ type: "phase", name: `evaluating (${mode})`, done, total: asked.length });
        report(0);
        const groups = await unlessStopped(source.evaluate(asked, report), stop);
        if (groups === null) return null;
        const correct = groups.filter((group) => group.completions[0]!.outcome === "correct").length;
        result[mode] = {
          accuracy: correct / groups.length,
          ci95: wilsonInterval(correct, groups.length),
          n: groups.length,
        };
        send({ type: "validation", when, mode, ...result[mode] });
      }
      return result;
    };

    let lastSaved = last;
    const save = async (): Promise<void> => {
      if (lastSaved === iteration) return;
      send({ type: "phase", name: "writing a checkpoint" });
      await source.flush();
      const weights = (await model.flat.data()) as Float32Array;
      const adam = await updater.optimizer.state();
      const values: LoopState = {
        iteration,
        optimizerSteps: updater.optimizer.step,
        klCoef: updater.klCoef,
        skippedUpdates: updater.skippedUpdates,
        wallSeconds: wallSeconds(),
        trainSeconds,
        before,
      };
      saveCheckpoint(checkpoints, iteration, (folder) => model.save(folder, run.model.path, weights), {
        vectors: { weights, adam_m: adam.m, adam_v: adam.v },
        values: { ...values },
      });
      pruneCheckpoints(checkpoints, run.save_total_limit);
      lastSaved = iteration;
    };

    const selfTest = tasks.evalTasks(iteration, SELFTEST_COMPLETIONS, "sampled", "selftest");
    const answers = await unlessStopped(source.evaluate(selfTest), stop);
    if (answers !== null) checkGap(await gap.measure(selfTest, answers), run.selftest);
    if (iteration === 0) before = (await evaluate("before")) ?? {};

    while (iteration < run.max_steps && !stop.aborted) {
      const begin = performance.now();
      const batch = await unlessStopped(source.batch(iteration), stop);
      if (batch === null) break;
      const waited = performance.now() - begin;
      checkRewardErrors(batch, run);
      const { metrics, advantages } = await updater.update(batch, iteration);
      const staleness = stalenessOf(batch, iteration);
      const logprobGap = await gap.measure(batch.tasks, batch.groups, GAP_COMPLETIONS);
      iteration++;
      await publish();
      await source.recordAdvantages(batch.batch, advantages);
      const seconds = (performance.now() - begin) / 1000;
      trainSeconds += seconds;
      const tokens = batch.groups.reduce((sum, g) => sum + g.completions.reduce((n, c) => n + c.ids.length, 0), 0);
      const line = {
        iteration,
        ...metrics,
        ...staleness,
        ...(logprobGap === null
          ? {}
          : {
              "sampling/actor_learner_logprob_gap/max": logprobGap.max,
              "sampling/actor_learner_logprob_gap/mean": logprobGap.mean,
            }),
        filtered_groups: batch.filteredGroups,
        "idle/learner": waited / 1000 / seconds,
        "idle/actor": batch.actorIdleSeconds / Math.max(1e-9, batch.actorIdleSeconds + batch.actorBusySeconds),
        iteration_seconds: seconds,
        tokens_per_second: tokens / seconds,
        completions_per_second: (batch.groups.length * run.num_generations) / seconds,
        wall_seconds: wallSeconds(),
        ...(await source.stats()),
      };
      appendFileSync(metricsFile, `${JSON.stringify(line)}\n`);
      send({ type: "iteration", iteration, maxSteps: run.max_steps, metrics: line });
      const isLast = iteration === run.max_steps;
      if (run.eval_steps > 0 && iteration % run.eval_steps === 0 && !isLast && !stop.aborted) {
        const validation = await evaluate(iteration);
        if (validation !== null) appendFileSync(validationFile, `${JSON.stringify({ iteration, ...validation })}\n`);
      }
      if (run.save_steps > 0 && iteration % run.save_steps === 0 && !isLast) await save();
    }

    await save();
    const after = stop.aborted ? null : await evaluate("after");
    const summary: RunSummary = {
      algo: run.algo,
      validation: { before, ...(after !== null && { after }) },
      iterations: iteration,
      wall_seconds: wallSeconds(),
      train_seconds: trainSeconds,
      backend: `${backend.name} (${backend.library})`,
      commit: currentCommit(),
      checkpoint: lastSaved === undefined ? null : relative(runDir, join(checkpoints, checkpointName(lastSaved))),
      stopped: after === null,
    };
    writeWhole(join(runDir, "summary.json"), `${JSON.stringify(summary, null, 2)}\n`);
    // Said before the actors are told to go, so that the launcher does not take their going for a
    // failure.
    send({ type: "done", summary });
  } finally {
    await source.close();
  }
}

/** What the promise gives, or null when the run is asked to stop before that. */
function unlessStopped<T>(promise: Promise<T>, stop: AbortSignal): Promise<T | null> {
  if (stop.aborted) return Promise.resolve(null);
  return new Promise((resolve, reject) => {
    const onStop = (): void => resolve(null);
    stop.addEventListener("abort", onStop, { once: true });
    promise.then(resolve, reject).finally(() => stop.removeEventListener("abort", onStop));
  });
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

/**
 * Iterations between the policy that trains and the oldest one that sampled, over the batch's
 * completions.
 */
function stalenessOf(batch: TrainingBatch, iteration: number): { "staleness/mean": number; "staleness/max": number } {
  const values = batch.groups.flatMap((group) =>
    group.completions.map((completion) => iteration - completion.version.iteration),
  );
  return { "staleness/mean": values.reduce((a, b) => a + b, 0) / values.length, "staleness/max": Math.max(...values) };
}
