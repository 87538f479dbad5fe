/** The mark of the one process that works in a directory: host, pid and start time. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { UserError } from "../errors.js";
import { processStat } from "../protocol/process-stat.js";

interface Identity {
  host: string;
  pid: number;
  /** Start time in the kernel's ticks, which tells a reused pid apart; null without /proc. */
  started: string | null;
}

/**
 * Claims `dir` by its mark `file`; returns a function that gives it back.
 * @throws UserError, ending with `cure`, when a living process of this machine holds it
 */
export function claimOwnership(dir: string, file: string, cure: string): () => void {
  const owner = readOwner(file);
  if (owner?.state === "living")
    throw new UserError(
      `${dir} is being run by process ${owner.pid}. Stop that one first (kill -INT ${owner.pid}), or ${cure}.`,
    );
  writeFileSync(file, JSON.stringify(identity(process.pid)));
  return () => rmSync(file, { force: true });
}

export interface Owner {
  readonly host: string;
  readonly pid: number;
  /** "elsewhere": on another machine, so nothing is known about it here. */
  readonly state: "living" | "dead" | "elsewhere";
}

/** Whoever left a mark; null when there is none (or a file cut short by a crash). */
export function readOwner(file: string): Owner | null {
  let owner: Identity;
  try {
    owner = JSON.parse(readFileSync(file, "utf8")) as Identity;
  } catch {
    return null;
  }
  const { host, pid } = owner;
  if (host !== hostname()) return { host, pid, state: "elsewhere" };
  return { host, pid, state: isAlive(pid) && identity(pid).started === owner.started ? "living" : "dead" };
}

function identity(pid: number): Identity {
  return { host: hostname(), pid, started: processStat(pid)?.started ?? null };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
