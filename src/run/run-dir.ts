/**
 * The run directory: named, claimed, and holding the resolved configuration. What else lies in it
 * (metrics.jsonl, trajectories/, checkpoints/, summary.json) is made by those who write it.
 *
 *   config.json    the resolved configuration; its presence means "this directory holds a run"
 *   launcher.json  who is running it now; left behind only by a launcher that was killed
 *   logs/          a log per process
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { claimOwnership } from "./owner.js";

const CONFIG = "config.json";
const OWNER = "launcher.json";

export const configFile = (runDir: string): string => join(runDir, CONFIG);
export const logFile = (runDir: string, role: string): string => join(runDir, "logs", `${role}.log`);

/**
 * `runs/<algo>-<date>-<time>` under the current directory, with a number behind it if that is
 * taken.
 */
export function newRunDir(algo: RunConfig["algo"], cwd: string, now = new Date()): string {
  const two = (n: number) => String(n).padStart(2, "0");
  const date = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`;
  const time = `${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
  const base = resolve(cwd, "runs", `${algo}-${date}-${time}`);
  let dir = base;
  for (let i = 2; existsSync(dir); i++) dir = `${base}-${i}`;
  return dir;
}

/**
 * The run that was started last under `runs/`.
 * @throws UserError when there is none
 */
export function latestRunDir(cwd: string): string {
  const root = resolve(cwd, "runs");
  const runs = existsSync(root) ? readdirSync(root).map((name) => join(root, name)) : [];
  const started = runs.filter((dir) => existsSync(configFile(dir)));
  if (started.length === 0)
    throw new UserError(`--resume: expected a run under ${root}, found none. Name the directory: --resume DIR`);
  return started.reduce((a, b) => (statSync(configFile(a)).mtimeMs >= statSync(configFile(b)).mtimeMs ? a : b));
}

/**
 * Makes the directory of a new run.
 * @throws UserError when it already holds a run, or something that is not a run
 */
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
      `--resume ${runDir}: expected the directory of a run, found no ${CONFIG} in it. Start a new run without --resume.`,
    );
}

/**
 * Claims the directory for this process and writes the resolved configuration.
 * @returns a function that gives the directory back; it also clears away a run that ended before it
 *   produced anything, so that a mended command can use the same name
 * @throws UserError when another launcher that is still alive runs it, or the directory cannot be
 *   written
 */
export function claimRunDir(runDir: string, config: RunConfig): () => void {
  const fresh = !existsSync(configFile(runDir));
  try {
    mkdirSync(join(runDir, "logs"), { recursive: true });
  } catch (error) {
    throw new UserError(
      `${runDir}: the run directory cannot be created (${(error as Error).message}). Choose another --run-dir.`,
      { cause: error },
    );
  }
  const disown = claimOwnership(runDir, join(runDir, OWNER), "choose another --run-dir");
  const partial = `${configFile(runDir)}.tmp`;
  writeFileSync(partial, `${JSON.stringify(config, null, 2)}\n`);
  renameSync(partial, configFile(runDir));
  return () => {
    disown();
    const produced = ["metrics.jsonl", "checkpoints", "summary.json"].some((name) => existsSync(join(runDir, name)));
    if (fresh && !produced) rmSync(configFile(runDir), { force: true });
  };
}
