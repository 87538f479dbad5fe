/** The run directory: named, claimed, and given the resolved configuration. */
import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import type { RunConfig } from "../config/schema.js";
import { UserError, messageOf } from "../errors.js";
import { writeJson } from "../files.js";
import { checkpointsFolder, configFile, logsFolder, metricsFile, ownerFile, summaryFile } from "./paths.js";
import { claimOwnership } from "./owner.js";

/** `runs/<algo>-<date>-<time>` below the current directory, with a number added if it is taken. */
export function newRunDir(algo: RunConfig["algo"], cwd: string, now = new Date()): string {
  const two = (n: number) => String(n).padStart(2, "0");
  const date = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`;
  const time = `${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
  const base = resolve(cwd, "runs", `${algo}-${date}-${time}`);
  let dir = base;
  for (let i = 2; existsSync(dir); i++) dir = `${base}-${i}`;
  return dir;
}

/** The run that was started last under `runs/`. @throws UserError when there is none */
export function latestRunDir(cwd: string): string {
  const root = resolve(cwd, "runs");
  const runs = existsSync(root) ? readdirSync(root).map((name) => join(root, name)) : [];
  const started = runs.filter((dir) => existsSync(configFile(dir)));
  if (started.length === 0)
    throw new UserError(`--resume: expected a run under ${root}, found none. Name the directory: --resume DIR`);
  return started.reduce((a, b) => (statSync(configFile(a)).mtimeMs >= statSync(configFile(b)).mtimeMs ? a : b));
}

/** @throws UserError when a new run cannot have the directory: it holds a run, or is a file */
export function checkNewRunDir(runDir: string): void {
  if (!existsSync(runDir)) return;
  if (!statSync(runDir).isDirectory())
    throw new UserError(`--run-dir ${runDir}: expected a directory or nothing, found a file.`);
  if (existsSync(configFile(runDir)))
    throw new UserError(
      `${runDir} already holds a run. Continue it with --resume ${runDir}, or choose another --run-dir.`,
    );
}

/** @throws UserError when the directory holds no run to resume */
export function checkResumableRunDir(runDir: string): void {
  if (!existsSync(configFile(runDir)))
    throw new UserError(
      `--resume ${runDir}: expected the directory of a run, found no config.json in it. Start a new run without --resume.`,
    );
}

/**
 * Claims the directory for this process and writes the resolved configuration. The function
 * returned gives it back, and removes a run that produced nothing, so that its name is free again.
 * @throws UserError when a living launcher runs it, or the directory cannot be written
 */
export function claimRunDir(runDir: string, config: RunConfig): () => void {
  const fresh = !existsSync(configFile(runDir));
  try {
    // prompts, completions and rewards are nobody else's
    if (!existsSync(runDir)) mkdirSync(runDir, { recursive: true, mode: 0o700 });
    mkdirSync(logsFolder(runDir), { recursive: true });
  } catch (error) {
    throw new UserError(
      `${runDir}: the run directory cannot be created (${messageOf(error)}). Choose another --run-dir.`,
      { cause: error },
    );
  }
  const disown = claimOwnership(runDir, ownerFile(runDir), "choose another --run-dir");
  writeJson(configFile(runDir), config);
  return () => {
    disown();
    const produced = [metricsFile, checkpointsFolder, summaryFile].some((path) => existsSync(path(runDir)));
    if (fresh && !produced) rmSync(configFile(runDir), { force: true });
  };
}
