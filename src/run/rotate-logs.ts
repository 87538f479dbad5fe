/** Keeps the logs of a run small, whoever writes them: the newest part and the one before it. */
import { copyFileSync, existsSync, readdirSync, rmSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { logsFolder } from "./paths.js";

const MOST_BYTES = 10e6;

/**
 * Moves each log of more than 10 MB to `<name>.1`, over the one before.
 * It is copied and emptied, as its writers keep it open; all of them append.
 */
export function rotateLogs(runDir: string, mostBytes = MOST_BYTES): void {
  const folder = logsFolder(runDir);
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder)) {
    const file = join(folder, name);
    try {
      if (name.endsWith(".1") || statSync(file).size <= mostBytes) continue;
      rmSync(`${file}.1`, { force: true }); // makes room for the copy
      copyFileSync(file, `${file}.1`);
      truncateSync(file);
    } catch {
      // a disk that is full or gone ends no run because of its logs
    }
  }
}
