/** The mark of the one process that works in a directory: host, pid and start time. */
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, utimesSync } from "node:fs";
import { hostname } from "node:os";
import { z } from "zod";
import { UserError } from "../errors.js";
import { jsonOf, writeWhole } from "../files.js";
import { processStat } from "../protocol/process-stat.js";

const identitySchema = z.object({
  host: z.string(),
  pid: z.int().positive(),
  /** Start time in the kernel's ticks, which tells a reused pid apart; null without /proc. */
  started: z.string().nullable(),
});
type Identity = z.infer<typeof identitySchema>;

/** The mark of a process on another machine is believed as long as it is touched. */
const FRESH_MS = 300_000;
/** No living process holds the lock for so long. */
const LOCK_MS = 10_000;

/**
 * Claims `dir` by its mark `file`; returns a function that gives it back.
 * @throws UserError, ending with `cure`, when a living process of this machine holds it
 */
export function claimOwnership(dir: string, file: string, cure: string): () => void {
  const unlock = lock(`${file}.lock`);
  try {
    const owner = readOwner(file);
    if (owner?.state === "living")
      throw new UserError(
        `${dir} is being run by process ${owner.pid}. Stop that one first (kill -INT ${owner.pid}), or ${cure}.`,
      );
    if (owner?.state === "elsewhere" && Date.now() - statSync(file).mtimeMs < FRESH_MS)
      throw new UserError(
        `${dir} is being run by process ${owner.pid} of ${owner.host}. Stop that one first, or ${cure}.`,
      );
    writeWhole(file, JSON.stringify(identity(process.pid)));
  } finally {
    unlock();
  }
  const touch = setInterval(() => {
    if (existsSync(file)) utimesSync(file, new Date(), new Date());
  }, FRESH_MS / 10);
  touch.unref();
  return () => {
    clearInterval(touch);
    rmSync(file, { force: true });
  };
}

/** Waits for the lock `folder`, held while a mark is judged and another one written. */
function lock(folder: string): () => void {
  for (;;) {
    try {
      mkdirSync(folder);
      return () => rmSync(folder, { recursive: true, force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const since = statSync(folder, { throwIfNoEntry: false })?.mtimeMs ?? Infinity;
    // left by a process that was killed in between
    if (Date.now() - since > LOCK_MS) rmSync(folder, { recursive: true, force: true });
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
  }
}

export interface Owner {
  readonly host: string;
  readonly pid: number;
  /** "elsewhere": on another machine, so nothing is known about it here. */
  readonly state: "living" | "dead" | "elsewhere";
}

/** Whoever left a mark; null when there is none (or a file cut short by a crash). */
export function readOwner(file: string): Owner | null {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return null; // given back meanwhile
  }
  const { data: owner } = identitySchema.safeParse(jsonOf(text));
  if (owner === undefined) return null;
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
