/** Folders outside the run directory. Names tell whose they are, so that others can remove them. */
import { chmodSync, existsSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { processStat } from "./process-stat.js";

const SHARED_MEMORY = "/dev/shm";
/** Where pids are counted from; another container's pids say nothing here. */
const NAMESPACE = pidNamespace();

/** Makes a folder (0700) of this process in `root`. */
export function ownFolder(root: string): string {
  const started = processStat(process.pid)?.started ?? "0";
  const folder = mkdtempSync(join(root, `frl-${NAMESPACE}-${process.pid}-${started}-`));
  chmodSync(folder, 0o700);
  return folder;
}

/** Makes a private folder in the machine's shared memory; null where there is none to write to. */
export function sharedMemoryFolder(root = SHARED_MEMORY): { folder: string; cleanup: () => void } | null {
  try {
    if (!existsSync(root)) return null;
    const folder = ownFolder(root);
    return { folder, cleanup: () => rmSync(folder, { recursive: true, force: true }) };
  } catch {
    return null; // full, or not ours to write
  }
}

/** Removes the folders of one process, which is gone, or whose threads may write there still. */
export function removeLeftoversOf(pid: number): void {
  const options = { recursive: true, force: true, maxRetries: 10, retryDelay: 5 };
  for (const { folder, owner } of ownedFolders()) if (owner === pid) rmSync(folder, options);
}

/** Removes the folders of all processes that are gone. Other users' are not ours to remove. */
export function removeAbandoned(roots?: string[]): void {
  for (const { folder, owner, started } of ownedFolders(roots)) {
    const living = processStat(owner);
    if (living !== null && (started === "0" || living.started === started)) continue;
    try {
      rmSync(folder, { recursive: true, force: true });
    } catch {
      // another user's
    }
  }
}

function ownedFolders(
  roots = [...new Set([SHARED_MEMORY, tmpdir(), "/tmp"])],
): { folder: string; owner: number; started: string }[] {
  return roots.flatMap((root) => {
    try {
      return readdirSync(root).flatMap((name) => {
        const [, namespace, owner, started] = /^frl-(\d+)-(\d+)-(\d+)-/.exec(name) ?? [];
        return namespace !== NAMESPACE ? [] : [{ folder: join(root, name), owner: Number(owner), started: started! }];
      });
    } catch {
      return []; // no such folder on this system
    }
  });
}

function pidNamespace(): string {
  try {
    return /\d+/.exec(readlinkSync("/proc/self/ns/pid"))![0];
  } catch {
    return "0"; // no /proc on this system
  }
}
