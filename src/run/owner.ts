/**
 * The mark of the one process that works in a directory: a small file with its host, pid and start
 * time. A process that was killed leaves it behind; it is then taken for what it is, because the
 * pid is gone or belongs to a later process.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { UserError } from "../errors.js";
import { processStat } from "../protocol/process-stat.js";

interface Identity {
  host: string;
  pid: number;
  /**
   * Start time of the process in the kernel's ticks; tells a reused pid apart. Null where /proc is
   * not there.
   */
  started: string | null;
}

/**
 * Claims a directory for this process.
 * @param dir for the message
 * @param file the mark, in a directory that exists
 * @param cure what else the user can do, a sentence's end
 * @returns a function that gives it back
 * @throws UserError when a living process of this machine holds it
 */
export function claimOwnership(dir: string, file: string, cure: string): () => void {
  const owner = livingOwner(file);
  if (owner !== null)
    throw new UserError(
      `${dir} is being run by process ${owner}. Stop that one first (kill -INT ${owner}), or ${cure}.`,
    );
  writeFileSync(file, JSON.stringify(identity(process.pid)));
  return () => rmSync(file, { force: true });
}

/** The process that holds a mark, if it lives on this machine; null when nobody does. */
function livingOwner(file: string): number | null {
  const owner = readOwner(file);
  return owner?.state === "living" ? owner.pid : null;
}

export interface Owner {
  readonly host: string;
  readonly pid: number;
  /** "elsewhere": of another machine, so nothing is known of it here. */
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
