/**
 * Which model `--model` means: a folder, a hub id, or a run directory, and what is known of the
 * run. Reads files only.
 */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../errors.js";

export interface Target {
  /** Model or adapter folder, or a hub id. */
  readonly model: string;
  /** Of the training run it is a checkpoint of; null for any other model. */
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
    return { model, trainSeed: ofRun?.seed ?? null, prompt: ofRun?.prompt ?? null };
  }
  const folder = join(model, "checkpoints");
  const steps = (existsSync(folder) ? readdirSync(folder) : [])
    .flatMap((name) => /^step-(\d{6,})$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
  const wanted = step ?? steps.at(-1);
  if (wanted === undefined || !steps.includes(wanted))
    throw new UserError(
      `${model}: expected ${step === undefined ? "a checkpoint" : `the checkpoint of step ${step}`}, found ${steps.length === 0 ? "none" : `those of ${steps.join(", ")}`}. ${steps.length === 0 ? "Let the run write one." : "Choose one with --checkpoint."}`,
    );
  return {
    model: join(folder, `step-${String(wanted).padStart(6, "0")}`),
    trainSeed: run.seed,
    prompt: run.prompt,
  };
}

interface Run {
  readonly seed: number | null;
  readonly prompt: NonNullable<Target["prompt"]>;
}

/**
 * What a run directory's config.json says; undefined for any other folder. A model's config.json
 * has no `algo`.
 */
function readRun(folder: string): Run | undefined {
  const file = join(folder, "config.json");
  if (!existsSync(file)) return undefined;
  let config: { algo?: unknown; seed?: unknown; data?: { system_prompt?: unknown; prompt_suffix?: unknown } };
  try {
    config = JSON.parse(readFileSync(file, "utf8")) as typeof config;
  } catch {
    return undefined;
  }
  if (config.algo === undefined) return undefined;
  const { system_prompt: system, prompt_suffix: suffix } = config.data ?? {};
  return {
    seed: typeof config.seed === "number" ? config.seed : null,
    prompt: {
      system: typeof system === "string" ? system : null,
      suffix: typeof suffix === "string" ? suffix : "",
    },
  };
}
