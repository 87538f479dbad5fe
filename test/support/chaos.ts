/** Small real runs for tests that disturb them, and what is asked of a run that was disturbed. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { start, type Running } from "./run.js";

/** Flags of a run that takes seconds: 32 completions of at most 24 tokens an iteration. */
export const SMALL =
  "--generation_batch_size=32 --num_generations=4 --max_completion_length=24 --eval.num_problems=16 --eval.greedy=false".split(
    " ",
  );

export function launchSmall(runDir: string, ...args: readonly string[]): Running {
  return start("launch", ["--algo", "grpo", "--run-dir", runDir, "--seed", "3", ...SMALL, ...args]);
}

/** Folders that these processes made in shared memory and the temporary directory. */
export function leftovers(pids: readonly number[]): string[] {
  return ["/dev/shm", tmpdir()]
    .filter((root) => existsSync(root))
    .flatMap((root) => readdirSync(root))
    .filter((name) => pids.includes(Number(/^frl-\d+-(\d+)-/.exec(name)?.[1])));
}

/** What the launcher has printed so far. */
export function printed(runDir: string): string {
  const file = join(runDir, "logs/launcher.log");
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}
