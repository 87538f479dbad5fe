/** Small real runs for tests that disturb them, and what is asked of a run that was disturbed. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { livingMembers, root, start, type Running } from "./run.js";

/** Flags of a run that takes seconds: 32 completions of at most 24 tokens an iteration. */
export const SMALL =
  "--generation_batch_size=32 --num_generations=4 --max_completion_length=24 --eval.num_problems=16 --eval.greedy=false".split(
    " ",
  );

export function launchSmall(runDir: string, ...args: readonly string[]): Running {
  return start("launch", ["--algo", "grpo", "--run-dir", runDir, "--seed", "3", ...SMALL, ...args]);
}

/**
 * A small run whose messages a proxy harms, and which waits for its tests: no more iterations
 * than `allow` says.
 */
export class GatedRun {
  readonly runDir: string;
  readonly running: Running;
  readonly #folder: string;

  /** @param harm share of messages that are dropped, doubled, delayed or damaged */
  constructor(folder: string, harm: number, ...args: readonly string[]) {
    this.#folder = folder;
    this.runDir = join(folder, "run");
    this.allow(1);
    const gate = join(root, "test/fixtures/gated-reward.mjs");
    const rewards = `--reward.functions=[{name: correctness, weight: 1}, {name: ${gate}, weight: 0}]`;
    const words = ["--algo", "grpo", "--run-dir", this.runDir, "--seed", "3", ...SMALL, rewards, ...args];
    const env = { ...process.env, FC_GATE: folder, FC_HARM: String(harm) };
    this.running = start("test/fixtures/launch-with-proxy.mjs", words, { env });
  }

  allow(iterations: number): void {
    writeFileSync(join(this.#folder, "allowed"), String(iterations));
  }

  /** The next call of the reward function does not return. @returns whether one has begun */
  hangReward(how: "hang-loop" | "hang-promise"): () => boolean {
    const file = join(this.#folder, how);
    writeFileSync(file, "");
    return () => !existsSync(file);
  }

  /** How often the proxy did what. */
  harmDone(): Record<string, number> {
    const file = join(this.#folder, "harm");
    const counts: Record<string, number> = {};
    for (const what of existsSync(file) ? readFileSync(file, "utf8").trim().split("\n") : [])
      counts[what] = (counts[what] ?? 0) + 1;
    return counts;
  }

  /** Living processes of the run. */
  processes(role: "learner" | "actor"): number[] {
    const script = { learner: "dist/learner/main.js", actor: "actor-behind-proxy.mjs" }[role];
    return livingMembers(this.running.pid).filter((pid) => commandOf(pid).includes(script));
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return ""; // gone meanwhile
  }
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
