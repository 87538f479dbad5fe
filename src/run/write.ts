/**
 * The learner's own files in a run directory: whole or not at all, and in step with the checkpoint
 * a run resumes from.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";

/** Writes under a temporary name, then renames. */
export function writeWhole(file: string, text: string): void {
  writeFileSync(`${file}.tmp`, text);
  renameSync(`${file}.tmp`, file);
}

/** Drops lines of iterations that a resumed run will do again. */
export function keepLinesUpTo(file: string, iteration: number): void {
  if (!existsSync(file)) return;
  const lines = readFileSync(file, "utf8").split("\n");
  const kept = lines.filter((line) => {
    if (line === "") return false;
    try {
      return (JSON.parse(line) as { iteration: number }).iteration <= iteration;
    } catch {
      return false; // the torn last line of a killed process
    }
  });
  writeWhole(file, kept.map((line) => `${line}\n`).join(""));
}

/** Commit of the program; null outside a git checkout. */
export function currentCommit(): string | null {
  try {
    const cwd = new URL(".", import.meta.url);
    return execFileSync("git", ["rev-parse", "HEAD"], {
      cwd,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  } catch {
    return null;
  }
}
