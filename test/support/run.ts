/**
 * Runs the built command line as a user would, in temporary directories, and reads what a run
 * leaves behind. Every process started here leads a process group of its own, so that a test can
 * see and end all its descendants.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { type JournalRecord, batchFile, journalBatches, readBatchFile } from "../../src/run/journal.js";

export const root = resolve(import.meta.dirname, "../..");
export const starter = join(root, "assets/starter");

const lacking = ["dist/launch.js", "assets/starter/model.safetensors"].find((file) => !existsSync(join(root, file)));
/** True when the command line cannot be run here; `reason`, for a suite's title, then says why. */
export const unrunnable = lacking !== undefined;
export const reason = unrunnable ? ` (skipped: ${lacking} is missing; npm test builds dist/)` : "";

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Running {
  readonly pid: number;
  readonly ended: Promise<Ended>;
  /** To every process of the group, as Ctrl-C in a terminal does it. */
  readonly signalGroup: (signal: NodeJS.Signals) => void;
}

const started = new Set<number>();
const folders: string[] = [];
process.on("exit", cleanUp);

export interface Where {
  /** Default: the repository's root. */
  readonly cwd?: string;
  /** Default: this process's. */
  readonly env?: NodeJS.ProcessEnv;
}

/** A part of the program, or a fixture that starts one. */
export type Entry = "launch" | "cli" | `test/fixtures/${string}.mjs`;

/** Starts `node dist/<entry>.js …args`, or a fixture. */
export function start(entry: Entry, args: readonly string[], { cwd = root, env = process.env }: Where = {}): Running {
  const child = spawn(process.execPath, [join(root, entry.endsWith(".mjs") ? entry : `dist/${entry}.js`), ...args], {
    cwd,
    env,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const pid = child.pid!;
  started.add(pid);
  const exited = new Promise<number | null>((done) => child.once("exit", done));
  const ended = Promise.all([exited, text(child.stdout), text(child.stderr)]).then(([code, stdout, stderr]) => ({
    code,
    stdout,
    stderr,
  }));
  return { pid, ended, signalGroup: (signal) => process.kill(-pid, signal) };
}

export const run = (entry: Entry, args: readonly string[], where?: Where): Promise<Ended> =>
  start(entry, args, where).ended;

/** Living processes of a group (Linux; empty elsewhere). A zombie is dead. */
export function livingMembers(group: number): number[] {
  if (!existsSync("/proc/self/stat")) return [];
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        // proc(5): pid (comm) state ppid pgrp …; comm may itself hold blanks and parentheses
        const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
        const [state, , pgrp] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        return Number(pgrp) === group && state !== "Z";
      } catch {
        return false; // gone meanwhile
      }
    });
}

/** A new empty directory, removed by `cleanUp`. */
export function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), "frl-test-"));
  folders.push(folder);
  return folder;
}

/** Ends what was started and removes what was made; for afterAll. */
export function cleanUp(): void {
  for (const pid of started)
    try {
      process.kill(-pid, "SIGKILL");
    } catch {
      // the group is empty
    }
  started.clear();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** Resolves when `condition` holds; the test's own timeout bounds the wait. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((done) => setTimeout(done, 20));
}

/** Whole lines of metrics.jsonl; none before the first iteration. */
export function readMetrics(runDir: string): Record<string, number>[] {
  const file = join(runDir, "metrics.jsonl");
  if (!existsSync(file)) return [];
  const whole = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return whole.map((line) => JSON.parse(line) as Record<string, number>);
}

/** Every record of the journal with the batch whose file holds it. */
export function readJournal(runDir: string): { batch: number; record: JournalRecord }[] {
  const folder = join(runDir, "trajectories");
  return journalBatches(folder).flatMap((batch) =>
    readBatchFile(batchFile(folder, batch)).records.map((record) => ({ batch, record })),
  );
}

export type Trajectory = Extract<JournalRecord, { type: "trajectory" }>;

/** The journal's trajectories by task id. */
export function trajectoriesOf(runDir: string): Map<string, Trajectory> {
  return new Map(
    readJournal(runDir).flatMap(({ record }) => (record.type === "trajectory" ? [[record.task.taskId, record]] : [])),
  );
}

/** Iterations as metrics.jsonl lists them. */
export const iterationsOf = (runDir: string): number[] => readMetrics(runDir).map((line) => line["iteration"]!);
