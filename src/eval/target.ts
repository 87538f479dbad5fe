/** Resolves `--model`, a folder, a hub id or a run directory, and reads how that run asked. */
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../errors.js";
import { listCheckpoints } from "../run/checkpoint.js";
import { findRunConfig } from "../run/run-config.js";
import { CHECKPOINTS, checkpointFolder } from "../run/paths.js";

export interface Target {
  /** Model or adapter folder, or a hub id. */
  readonly model: string;
  /** Seed of the training run that wrote it; null for any other model. */
  readonly trainSeed: number | null;
  /** How that run asked its questions; null for any other model. */
  readonly prompt: { readonly system: string | null; readonly suffix: string } | null;
}

/** @param step default: the last one @throws UserError for a checkpoint that is not there */
export function findTarget(model: string, step?: number): Target {
  const run = findRun(model);
  if (run === undefined) {
    if (step !== undefined)
      throw new UserError(
        `--checkpoint ${step}: expected --model to be a run directory, found ${model}, which is none. Leave --checkpoint out.`,
      );
    const ofRun = basename(dirname(resolve(model))) === CHECKPOINTS ? findRun(join(model, "../..")) : undefined;
    return { model, trainSeed: null, prompt: null, ...ofRun };
  }
  const steps = listCheckpoints(model);
  const wanted = step ?? steps.at(-1);
  if (wanted === undefined || !steps.includes(wanted))
    throw new UserError(
      `${model}: expected ${step === undefined ? "a checkpoint" : `the checkpoint of step ${step}`}, found ${steps.length === 0 ? "none" : `those of ${steps.join(", ")}`}. ${steps.length === 0 ? "Let the run write one." : "Choose one with --checkpoint."}`,
    );
  return { model: checkpointFolder(model, wanted), ...run };
}

/** The training run in a folder, as far as an evaluation needs it. */
function findRun(folder: string): Pick<Target, "trainSeed" | "prompt"> | undefined {
  const run = findRunConfig(folder);
  if (run === undefined) return undefined;
  return { trainSeed: run.seed, prompt: { system: run.data.system_prompt, suffix: run.data.prompt_suffix } };
}
