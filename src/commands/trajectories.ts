/** `trajectories RUN_DIR`: the journal of a run as JSON lines. */
import type { Writable } from "node:stream";
import { trajectoryLines } from "../run/trajectories.js";

/**
 * Writes one line per completion.
 * @param warn told about torn tails, which a killed run leaves
 * @throws UserError when the folder holds no run
 */
export async function trajectories(
  runDir: string,
  out: Writable = process.stdout,
  warn: (line: string) => void = console.error,
): Promise<void> {
  for (const line of trajectoryLines(runDir, warn))
    if (!out.write(line)) await new Promise((resolve) => out.once("drain", resolve));
}
