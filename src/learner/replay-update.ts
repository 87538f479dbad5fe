/** Trains an iteration once more, from the journal, and compares. Writes nothing into the run. */
import { availableParallelism } from "node:os";
import { stepsPerIteration } from "../config/derived.js";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { readModelConfig } from "../model/config.js";
import { publishedHash } from "../model/identity.js";
import { listCheckpoints, loadNewest } from "../run/checkpoint.js";
import { compareModel } from "../run/inputs.js";
import { batchFile, journalBatches, readBatchFile } from "../run/journal.js";
import { checkpointFolder, trajectoriesFolder } from "../run/paths.js";
import { readRunFiles, weightsAfter } from "../run/records.js";
import { learningRateAt } from "./algorithms/schedule.js";
import { Updater } from "./algorithms/update.js";
import { describeBackend, startBackend } from "./backend/backend.js";
import { TrainableModel, baseFromFolder } from "./policy/model.js";
import type { TrainingBatch } from "./rollouts/rollout-source.js";
import { Checkpoints } from "./training-state.js";

export interface ReplayOptions {
  readonly step: number;
  /** The run's model, where it has moved. */
  readonly model?: string;
  /** 0 = as many as the run would take on this machine. */
  readonly threads: number;
}

/** How two values agree: in each bit, as far as float32 allows, or not. */
export type Agreement = "equal" | "rounding" | "differs" | "not recorded";

export interface Replayed {
  readonly rows: { readonly name: string; readonly was: string; readonly is: string; readonly how: Agreement }[];
  readonly notes: readonly string[];
}

/** Sums in another order differ by so much, relative to the value and at least. */
const ROUNDING = { relative: 1e-4, least: 1e-6 };

/** @throws UserError for a step that was not trained, or whose batch the journal lacks */
export async function replay(runDir: string, { step, model: moved, threads }: ReplayOptions): Promise<Replayed> {
  const { config, metrics } = readRunFiles(runDir);
  const run = moved === undefined ? config : { ...config, model: { ...config.model, path: moved } };
  const lineOf = (iteration: number) => metrics.find((line) => line["iteration"] === iteration);
  const recorded = lineOf(step);
  if (recorded === undefined)
    throw new UserError(
      `--step ${step}: expected an iteration that ${runDir} has trained, found 1 to ${metrics.length}. Choose one of them.`,
    );
  const notes: string[] = [];
  const checkpoints = new Checkpoints(
    runDir,
    loadNewest(runDir, (note) => notes.push(note), step),
  );
  const from = checkpoints.counters.iteration;
  const batches = Array.from({ length: step - from }, (_, i) => trainedBatch(runDir, from + i, run.journal.keep));
  const near = listCheckpoints(runDir).find((saved) => saved >= from);
  compareModel(runDir, run, false, near);

  const numThreads = threads || run.learner.threads || availableParallelism();
  const backend = await startBackend(run.learner.backend, numThreads, run.learner.matmul);
  const { tf } = backend;
  const shape = readModelConfig(run.model.path);
  const model = new TrainableModel(tf, shape, run, baseFromFolder(run.model.path, shape), checkpoints.weights);
  const training = { tf, run, model };
  const updater = new Updater(training);
  checkpoints.restore(updater);
  notes.push(
    `from ${from === 0 ? "the base model" : checkpointFolder("", from)}, ${step - from - 1} iterations in between, by ${describeBackend(backend)}, threads: ${numThreads}`,
  );
  let result: Awaited<ReturnType<Updater["update"]>> | undefined;
  for (const { batch } of batches) {
    const rate = lineOf(batch.batch + 1)?.["learning_rate"];
    training.run = { ...run, max_steps: maxStepsAt(run, batch.batch, rate) };
    result = await updater.update(batch, batch.batch);
  }
  const { advantages, metrics: now } = result!;
  const skipped = recorded["skipped_updates"]! - (lineOf(step - 1)?.["skipped_updates"] ?? 0);
  if (skipped > 0)
    notes.push(`${skipped} updates were skipped: loss or gradient was not finite, and the weights stayed.`);
  const rows = ["loss", "grad_norm", "learning_rate", "reward", "skipped_updates"].map((key) => {
    const [was, is] = [recorded[key] ?? NaN, now[key] ?? NaN];
    return { name: key, was: String(was), is: String(is), how: agreement([was], [is]) };
  });
  const stored = batches.at(-1)!.advantages;
  const flat = (rows: readonly Float32Array[]): number[] => rows.flatMap((row) => [...row]);
  const found = [...stored.keys()].flatMap((taskId) => advantages.get(taskId) ?? []);
  const how = agreement(flat([...stored.values()].flat()), flat(found));
  rows.push({ name: "advantages", was: `of ${stored.size} groups`, is: "", how });

  const base = run.lora.enabled ? model.frozenSha256 : null;
  const was = weightsAfter(runDir, step);
  const is = publishedHash(await model.published(), model.publishedLayout, base);
  // rounding that is seen above is in the weights too
  const byRounding = rows.some((row) => row.how === "rounding") ? "rounding" : "differs";
  const weights = was === undefined ? "not recorded" : was === is ? "equal" : byRounding;
  rows.push({ name: "weights", was: was ?? "", is, how: weights });
  return { rows, notes };
}

/** The groups that were trained on, in their order: those whose advantages were written. */
function trainedBatch(runDir: string, k: number, keep: number | null) {
  const directory = trajectoriesFolder(runDir);
  if (!journalBatches(directory).includes(k))
    throw new UserError(
      `batch ${k}: expected it in ${directory}, found no file${keep === null ? "" : `; journal.keep is ${keep}, so older batches were removed`}. ` +
        `Choose a step whose batches since the checkpoint before it are there (checkpoints: ${listCheckpoints(runDir).join(", ") || "none"}).`,
    );
  const { records, tornBytes, damagedRecords } = readBatchFile(batchFile(directory, k));
  if (tornBytes + damagedRecords > 0)
    throw new UserError(
      `${batchFile(directory, k)}: expected whole records, found damaged ones: the batch cannot be replayed as it was. Choose a step after a later checkpoint.`,
    );
  const advantages = new Map(records.filter((r) => r.type === "advantages").map((r) => [r.taskId, r.advantages]));
  const trajectories = new Map(records.filter((r) => r.type === "trajectory").map((r) => [r.task.taskId, r]));
  const used = [...advantages.keys()].map((taskId) => {
    const found = trajectories.get(taskId);
    if (found === undefined)
      throw new UserError(
        `batch ${k}: expected the group ${taskId}, found none that can be read. The journal is damaged.`,
      );
    return found;
  });
  if (used.length === 0)
    throw new UserError(`batch ${k}: expected groups with advantages, found none: it was not trained on.`);
  const [tasks, groups] = [used.map(({ task }) => task), used.map(({ group }) => group)];
  const batch: TrainingBatch = { batch: k, tasks, groups, filteredGroups: 0, actorIdleSeconds: 0, actorBusySeconds: 0 };
  return { batch, advantages };
}

/** The length of the run when it recorded this rate: a resumed run may have been prolonged. */
function maxStepsAt(run: RunConfig, iteration: number, rate: number | undefined): number {
  const fits = (maxSteps: number): boolean =>
    learningRateAt({ ...run, max_steps: maxSteps }, iteration, stepsPerIteration(run) - 1) === rate;
  if (fits(run.max_steps)) return run.max_steps;
  for (let maxSteps = iteration + 1; maxSteps < iteration + 100_000; maxSteps++) if (fits(maxSteps)) return maxSteps;
  return run.max_steps;
}

function agreement(was: readonly number[], is: readonly number[]): Agreement {
  const { relative, least } = ROUNDING;
  const isNear = (a: number, i: number): boolean => Math.abs(a - is[i]!) <= least + relative * Math.abs(a);
  if (was.length !== is.length) return "differs";
  // what is not finite is written as null, and read as nothing
  if (was.every((a, i) => a === is[i] || (Number.isNaN(a) && !Number.isFinite(is[i])))) return "equal";
  return was.every(isNear) ? "rounding" : "differs";
}
