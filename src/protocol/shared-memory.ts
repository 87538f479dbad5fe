/**
 * A private folder in the machine's shared memory, through which processes of one machine pass what
 * is too large for a socket. Knows files; knows nothing of what is in them.
 */
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";

const SHARED_MEMORY = "/dev/shm";
const PREFIX = "frl-weights-";
/**
 * A killed run cannot remove its folder, and shared memory is memory: the next run does, once it is
 * surely abandoned.
 */
const ABANDONED_AFTER_MS = 60 * 60 * 1000;

/**
 * Makes a folder (0700) that only this user can read.
 * @returns null where there is no shared memory to be had (not Linux, or not writable)
 */
export function sharedMemoryFolder(root = SHARED_MEMORY): { folder: string; cleanup: () => void } | null {
  try {
    if (!existsSync(root)) return null;
    removeAbandoned(root);
    const folder = mkdtempSync(join(root, `${PREFIX}${process.pid}-`));
    chmodSync(folder, 0o700);
    return { folder, cleanup: () => rmSync(folder, { recursive: true, force: true }) };
  } catch {
    return null; // full, or not ours to write
  }
}

/**
 * A folder whose maker is gone and that nothing was written to for an hour (every publish writes).
 */
function removeAbandoned(root: string): void {
  for (const name of readdirSync(root)) {
    const pid = new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    const folder = join(root, name);
    if (Date.now() - statSync(folder).mtimeMs < ABANDONED_AFTER_MS) continue;
    rmSync(folder, { recursive: true, force: true });
  }
}
