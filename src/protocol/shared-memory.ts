/** A private folder in the machine's shared memory, for what is too large for a socket. */
import { existsSync, rmSync } from "node:fs";
import { ownFolder } from "./leftovers.js";

const SHARED_MEMORY = "/dev/shm";

/** Makes a folder (0700) for this user; null where there is no writable shared memory. */
export function sharedMemoryFolder(root = SHARED_MEMORY): { folder: string; cleanup: () => void } | null {
  try {
    if (!existsSync(root)) return null;
    const folder = ownFolder(root);
    return { folder, cleanup: () => rmSync(folder, { recursive: true, force: true }) };
  } catch {
    return null; // full, or not ours to write
  }
}
