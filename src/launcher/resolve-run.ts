/** From the flags of `launch` to the configuration and directory of a new or a continued run. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { type LoadedConfig, loadConfig, resumeConfig, shortPath } from "../config/load.js";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { checkNewRunDir, checkResumableRunDir, latestRunDir, newRunDir } from "../run/run-dir.js";
import { readRunConfig } from "../run/run-config.js";
import { configFile, summaryFile } from "../run/paths.js";
import { readSummary } from "../run/records.js";

type ResolvedRun = Pick<LoadedConfig, "config" | "notes"> & {
  readonly runDir: string;
  /** A resumed run that has nothing left to do. */
  readonly isFinished?: boolean;
};

export interface LaunchFlags {
  algo?: RunConfig["algo"];
  config?: string[];
  runDir?: string;
  maxSteps?: number;
  seed?: number;
  actors?: number;
  resume?: string | true;
  acceptChangedInputs?: true;
  dryRun?: true;
  /** False with --no-plan. */
  plan: boolean;
  serial?: true | undefined;
  debug?: true;
}

/** Takes `--key=value` words; `flagNames` are for the nearest name in an error. */
export function resolveRun(flags: LaunchFlags, words: readonly string[], flagNames: readonly string[]): ResolvedRun {
  // what a resumed run is, it was from the start
  const overrides = [...words, ...shorthands(flags.resume === undefined ? flags : { ...flags, serial: undefined })];
  const loaded =
    flags.resume === undefined
      ? newRun(flags, overrides, flagNames)
      : resumedRun(flags, flags.resume, overrides, flagNames);
  return { ...loaded, config: { ...loaded.config, run_dir: loaded.runDir } };
}

function newRun(
  { algo, config, runDir, acceptChangedInputs }: LaunchFlags,
  words: readonly string[],
  flags: readonly string[],
): ResolvedRun {
  if (acceptChangedInputs) throw new UserError("--accept-changed-inputs: expected --resume beside it. Add it.");
  const cwd = process.cwd();
  const overrides = runDir === undefined ? words : [...words, `--run_dir=${resolve(cwd, runDir)}`];
  const loaded = loadConfig({ algo, files: config ?? [], overrides, flags, cwd });
  const dir = loaded.config.run_dir ?? newRunDir(loaded.config.algo, cwd);
  checkNewRunDir(dir);
  return { ...loaded, runDir: dir };
}

function resumedRun(
  flags: LaunchFlags,
  resume: string | true,
  overrides: readonly string[],
  flagNames: readonly string[],
): ResolvedRun {
  if (flags.config !== undefined)
    throw new UserError("--resume takes the configuration of the run it continues; remove --config.");
  const cwd = process.cwd();
  const named = resume === true ? flags.runDir : resume;
  const runDir = named === undefined ? latestRunDir(cwd) : resolve(cwd, named);
  checkResumableRunDir(runDir);
  const loaded = resumeConfig(readRunConfig(configFile(runDir)), overrides, flagNames);
  if (flags.algo !== undefined && flags.algo !== loaded.config.algo)
    throw new UserError(
      `--algo ${flags.algo}: ${shortPath(runDir)} is a run of ${loaded.config.algo}. Remove --algo, or start a new run.`,
    );
  if (flags.serial === true && !loaded.config.serial)
    throw new UserError(`--serial: ${shortPath(runDir)} was started without it. Remove it, or start a new run.`);
  const isFinished = hasFinished(runDir, loaded.config);
  const note = isFinished
    ? `${shortPath(runDir)} is finished: all of its iterations are done and evaluated. To go on, raise --max-steps.`
    : `Continuing ${shortPath(runDir)}`;
  return { ...loaded, notes: [note, ...loaded.notes], runDir, isFinished };
}

function hasFinished(runDir: string, { max_steps }: RunConfig): boolean {
  if (!existsSync(summaryFile(runDir))) return false;
  const { iterations, stopped } = readSummary(runDir);
  return !stopped && iterations >= max_steps;
}

/** Flags that stand for configuration keys. */
function shorthands({ maxSteps, seed, actors, serial }: LaunchFlags): string[] {
  return Object.entries({ max_steps: maxSteps, seed, "actors.num": actors, serial }).flatMap(([key, value]) =>
    value === undefined ? [] : [`--${key}=${value}`],
  );
}
