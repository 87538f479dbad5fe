/** Resolves `--model`, a folder, a hub id or a run directory, and reads how that run asked. */
import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.js";
import { jsonOf } from "../files.js";
import { checkpointName, listCheckpoints } from "../run/checkpoint.js";
import { configFile } from "../run/run-dir.js";

export interface Target {
  /** Model or adapter folder, or a hub id. */
  readonly model: string;
  /** Seed of the training run that wrote it; null for any other model. */
  readonly trainSeed: number | null;
  /** How that run asked its questions; null for any other model. */
  readonly prompt: { readonly system: string | null; readonly suffix: string } | null;
}

/**
 * @param step of a run directory's checkpoint; default the last one
 * @throws UserError for a run without that checkpoint, or a step of what is no run
 */
export function findTarget(model: string, step?: number): Target {
  const run = readRun(model);
  if (run === undefined) {
    if (step !== undefined)
      throw new UserError(
        `--checkpoint ${step}: expected --model to be a run directory, found ${model}, which is none. Leave --checkpoint out.`,
      );
    const ofRun = basename(dirname(resolve(model))) === "checkpoints" ? readRun(join(model, "../..")) : undefined;
    return { model, trainSeed: null, prompt: null, ...ofRun };
  }
  const folder = join(model, "checkpoints");
  const steps = listCheckpoints(folder);
  const wanted = step ?? steps.at(-1);
  if (wanted === undefined || !steps.includes(wanted))
    throw new UserError(
      `${model}: expected ${step === undefined ? "a checkpoint" : `the checkpoint of step ${step}`}, found ${steps.length === 0 ? "none" : `those of ${steps.join(", ")}`}. ${steps.length === 0 ? "Let the run write one." : "Choose one with --checkpoint."}`,
    );
  return { model: join(folder, checkpointName(wanted)), ...run };
}

const runSchema = z.looseObject({
  algo: z.string(),
  seed: z.int().optional(),
  data: z.looseObject({ system_prompt: z.string().nullish(), prompt_suffix: z.string().optional() }).optional(),
});

/** What a run's config.json says; undefined for any other folder: a model's has no `algo`. */
function readRun(folder: string): Omit<Target, "model"> | undefined {
  const file = configFile(folder);
  const parsed = runSchema.safeParse(existsSync(file) ? jsonOf(readFileSync(file, "utf8")) : undefined);
  if (!parsed.success) return undefined;
  const { seed = null, data } = parsed.data;
  return { trainSeed: seed, prompt: { system: data?.system_prompt ?? null, suffix: data?.prompt_suffix ?? "" } };
}
