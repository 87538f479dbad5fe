/** What a run continues from: weights, optimizer, counters. run/checkpoint.ts knows the files. */
import { join } from "node:path";
import { z } from "zod";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { checkedJson } from "../files.js";
import type { Validation } from "../protocol/progress.js";
import { pruneCheckpoints, saveCheckpoint, type TrainingState } from "../run/checkpoint.js";
import { compareInputs, type runInputs, savedInputs } from "../run/inputs.js";
import { checkpointFolder } from "../run/paths.js";
import { ACCEPT_VARIABLE } from "../run/run-config.js";
import type { Updater } from "./algorithms/update.js";

/** What must be there to go on; the rest is as it was written. */
const savedSchema = z.looseObject({
  iteration: z.int().nonnegative(),
  /** Wall time of all sessions before this one. */
  wallSeconds: z.number(),
  /** Wall time of training iterations, all sessions. */
  trainSeconds: z.number(),
  before: z.looseObject({}).transform((before): Validation => before),
  optimizerSteps: z.int().nonnegative(),
  klCoef: z.number(),
  skippedUpdates: z.int().nonnegative(),
  inputs: savedInputs,
});
type SavedValues = z.infer<typeof savedSchema>;

/** The last checkpoint of a run, read back; null state when there is none or none is wanted. */
export class Checkpoints {
  readonly counters: { iteration: number; wallSeconds: number; trainSeconds: number; before: Validation };
  readonly #runDir: string;
  readonly #started = performance.now();
  #state: TrainingState | null;
  #lastSaved: number | undefined;
  #inputs: SavedValues["inputs"] = {};

  /** @param start the checkpoint to go on from; null for the beginning */
  constructor(runDir: string, start: { readonly step: number; readonly state: TrainingState } | null) {
    this.#runDir = runDir;
    this.#lastSaved = start?.step;
    this.#state = start?.state ?? null;
    const { iteration = 0, wallSeconds = 0, trainSeconds = 0, before = {} } = this.#values ?? {};
    this.counters = { iteration, wallSeconds, trainSeconds, before };
  }

  get #values(): SavedValues | null {
    if (this.#state === null) return null;
    const { vectors, values } = this.#state;
    const folder = join(this.#runDir, this.newest!);
    const { weights, adam_m: m, adam_v: v } = vectors;
    if (weights === undefined || m?.length !== weights.length || v?.length !== weights.length)
      throw new UserError(
        `${folder}/training_state.safetensors: expected weights, adam_m and adam_v of one length, found ${[weights, m, v].map((one) => one?.length ?? "none").join(", ")}. Resume from an older checkpoint: delete ${folder}.`,
      );
    return checkedJson(values, savedSchema, `${folder}/training_state.json`);
  }

  /** The trainable vector of the checkpoint; null for a run that starts anew. */
  get weights(): Float32Array | null {
    return this.#state?.vectors.weights ?? null;
  }

  /** Wall time of all sessions, in seconds. */
  get wallSeconds(): number {
    return this.counters.wallSeconds + (performance.now() - this.#started) / 1000;
  }

  /** The newest checkpoint's folder, relative to the run directory; null when there is none. */
  get newest(): string | null {
    return this.#lastSaved === undefined ? null : checkpointFolder("", this.#lastSaved);
  }

  /** @throws UserError when an input is not the checkpoint's, and that was not accepted */
  compare(inputs: ReturnType<typeof runInputs>, note: (message: string) => void): void {
    const isAccepted = process.env[ACCEPT_VARIABLE] === "1";
    if (this.#state !== null) compareInputs(this.#values?.inputs, inputs, isAccepted, note);
    this.#inputs = Object.fromEntries(inputs.map(({ name, sha256 }) => [name, sha256]));
  }

  /** Gives optimizer and counters of the checkpoint to the updater, and forgets the vectors. */
  restore(updater: Updater): void {
    const values = this.#values;
    if (values === null) return;
    const { adam_m: m, adam_v: v } = this.#state!.vectors;
    updater.policy.optimizer.restore({ step: values.optimizerSteps, m: m!, v: v! });
    updater.policy.skippedUpdates = values.skippedUpdates;
    updater.klCoef = values.klCoef;
    this.#state = null;
  }

  get isSaved(): boolean {
    return this.#lastSaved === this.counters.iteration;
  }

  async save(run: RunConfig, updater: Updater): Promise<void> {
    const { model } = updater.policy.training;
    const weights = (await model.flat.data()) as Float32Array;
    const adam = await updater.policy.optimizer.state();
    const values: SavedValues = {
      ...this.counters,
      wallSeconds: this.wallSeconds,
      optimizerSteps: adam.step,
      klCoef: updater.klCoef,
      skippedUpdates: updater.policy.skippedUpdates,
      inputs: this.#inputs,
    };
    const { iteration } = this.counters;
    saveCheckpoint(this.#runDir, iteration, (folder) => model.save(folder, run.model.path, weights), {
      vectors: { weights, adam_m: adam.m, adam_v: adam.v },
      values: { ...values },
    });
    pruneCheckpoints(this.#runDir, run.save_total_limit);
    this.#lastSaved = iteration;
  }
}
