/** Resolves `--model`, a folder, a hub id or a run directory, and reads how that run asked. */
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../errors.js";
import { checkpointOf } from "../run/checkpoint.js";
import { findRunConfig } from "../run/run-config.js";
import { CHECKPOINTS } from "../run/paths.js";

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
  return { model: checkpointOf(model, step), ...run };
}

/** The training run in a folder, as far as an evaluation needs it. */
function findRun(folder: string): Pick<Target, "trainSeed" | "prompt"> | undefined {
  const run = findRunConfig(folder);
  if (run === undefined) return undefined;
  return { trainSeed: run.seed, prompt: { system: run.data.system_prompt, suffix: run.data.prompt_suffix } };
}
