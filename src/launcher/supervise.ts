/**
 * Runs the learner and its actors as child processes until the run is over: starts actors when the
 * learner listens, restarts dead ones, passes on the request to stop, and leaves no process behind.
 * Knows nothing about terminals, signals, or what the children compute.
 *
 *   learner ──listening──▶ actors start ──…──▶ learner "done" + exit ──▶ actors stop ──▶ resolved
 *   a dead actor is started again (at most max_restarts times); a dead learner ends the run.
 */
import { fork, type ChildProcess } from "node:child_process";
import { closeSync, openSync, statSync } from "node:fs";
import type { RunConfig } from "../config/schema.js";
import type { LauncherMessage, ProgressEvent, RunSummary } from "../protocol/progress.js";
import { deviceEnv } from "../machine/devices.js";
import type { DevicePlan } from "./assign-devices.js";
import { howItEnded, logTail } from "../run/children.js";
import { configFile, logFile } from "../run/paths.js";
import { threadEnv, type ThreadPlan } from "./threads.js";

/** How long a child may take to exit after its work is done, or after another child failed. */
const EXIT_GRACE_MS = 10_000;
/** How long the learner may take for a last checkpoint when the run is ended by dead actors. */
const CHECKPOINT_GRACE_MS = 120_000;

export interface SuperviseOptions {
  readonly runDir: string;
  readonly actors: RunConfig["actors"];
  readonly threads: ThreadPlan;
  readonly devices: DevicePlan;
  /** Folders in which a process on a GPU finds CUDA's libraries. */
  readonly libraryPath: { readonly learner: readonly string[]; readonly actor: readonly string[] };
  /** JavaScript files to fork. */
  readonly scripts: { readonly learner: string; readonly actor: string };
  readonly serial: boolean;
  readonly resume: boolean;
  /** Show the log's tail for user errors as well. */
  readonly debug: boolean;
  readonly onEvent: (event: ProgressEvent) => void;
  readonly onActors: (running: number, restarts: number) => void;
}

export interface RunEnd {
  /** Present when the learner ended well. */
  readonly summary?: RunSummary;
  /** Present when the run failed: why, ready to be shown. */
  readonly failure?: string;
}

export interface SupervisedRun {
  /** Resolves when no child is left. Never rejects. */
  readonly ended: Promise<RunEnd>;
  /** Asks the learner to write a checkpoint and go; the actors follow. */
  readonly stop: () => void;
  /** Kills every child at once. */
  readonly kill: () => void;
}

export function supervise(options: SuperviseOptions): SupervisedRun {
  const { runDir, scripts, threads, devices, libraryPath } = options;
  const children = new Set<ChildProcess>();
  const actors = new Set<ChildProcess>();
  let ending = false;
  let restarts = 0;
  let summary: RunSummary | undefined;
  let failure: string | undefined;
  let resolveEnded: (end: RunEnd) => void;
  const ended = new Promise<RunEnd>((resolve) => (resolveEnded = resolve));

  const learnerEnv = childEnv(threads.learner, devices.learner, libraryPath.learner);
  const mode = [...(options.serial ? ["--serial"] : []), ...(options.resume ? ["--resume"] : [])];
  const learner = start("learner", scripts.learner, threads.learner, learnerEnv, mode);
  learner.child.on("message", (event: ProgressEvent) => {
    if (event.type === "listening") for (let index = 0; index < options.actors.num; index++) startActor(index, event);
    if (event.type === "done") {
      ({ summary } = event);
      ending = true;
      killAfter(learner.child, EXIT_GRACE_MS);
    }
    options.onEvent(event);
  });
  learner.child.on("close", (code, signal) => {
    // a learner that died while being stopped lost its last checkpoint: that is a failure too
    if (summary === undefined) failure ??= learner.explain(code, signal);
    endActors();
  });

  function startActor(index: number, addresses: { work: string; weights: string }): void {
    if (ending) return;
    const env = childEnv(threads.actor, devices.actors[index] ?? null, libraryPath.actor);
    const args = ["--index", String(index), "--work", addresses.work, "--weights", addresses.weights];
    const actor = start(`actor-${index}`, scripts.actor, threads.actor, env, args);
    actors.add(actor.child);
    options.onActors(actors.size, restarts);
    actor.child.on("message", options.onEvent);
    actor.child.on("close", (code, signal) => {
      actors.delete(actor.child);
      if (ending) return;
      const why = actor.explain(code, signal);
      // a user error would only repeat itself
      if (actor.saidUserError() || restarts >= options.actors.max_restarts) {
        failure ??= actor.saidUserError()
          ? why
          : `${why}\nactors.max_restarts (${options.actors.max_restarts}) is used up; the run ends.`;
        options.onActors(actors.size, restarts);
        stop();
        killAfter(learner.child, CHECKPOINT_GRACE_MS);
        return;
      }
      restarts++;
      options.onEvent({
        type: "log",
        message: `${firstLine(why)} Restarting it (${restarts} of at most ${options.actors.max_restarts} restarts).`,
      });
      startActor(index, addresses);
    });
  }

  function start(role: string, script: string, numThreads: number, env: NodeJS.ProcessEnv, args: readonly string[]) {
    const words = ["--config", configFile(runDir), "--threads", String(numThreads), ...args];
    const started = forkLogged(role, script, words, env, logFile(runDir, role), options.debug);
    const { child } = started;
    children.add(child);
    child.on("close", () => {
      children.delete(child);
      // after the other listeners of this event, which may start a child
      setImmediate(() => {
        if (children.size === 0)
          resolveEnded({ ...(summary && { summary }), ...(failure !== undefined && { failure }) });
      });
    });
    return started;
  }

  function stop(): void {
    ending = true;
    tell(learner.child, { type: "stop" });
  }

  function endActors(): void {
    ending = true;
    for (const actor of actors) {
      tell(actor, { type: "stop" });
      killAfter(actor, EXIT_GRACE_MS);
    }
  }

  return {
    ended,
    stop,
    kill: () => {
      ending = true;
      for (const child of children) child.kill("SIGKILL");
    },
  };
}

/** Environment of a child: its threads, its GPU and the folders of CUDA's libraries. */
function childEnv(numThreads: number, device: string | null, libraryPath: readonly string[]): NodeJS.ProcessEnv {
  return { ...process.env, ...threadEnv(numThreads), ...deviceEnv(device, libraryPath, process.env) };
}

function tell(child: ChildProcess, message: LauncherMessage): void {
  // the callback takes the error of a channel that closes meanwhile; 'close' then reports the child
  // itself
  if (child.connected) child.send(message, () => {});
}

function killAfter(child: ChildProcess, delayMs: number): void {
  const timer = setTimeout(() => child.kill("SIGKILL"), delayMs);
  child.once("close", () => clearTimeout(timer));
}

interface LoggedChild {
  readonly child: ChildProcess;
  /** Whether it ended by an error that the user can mend. */
  readonly saidUserError: () => boolean;
  /** Says how it died. */
  readonly explain: (code: number | null, signal: NodeJS.Signals | null) => string;
}

/** Forks a child whose output goes to its log. */
function forkLogged(
  role: string,
  script: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  file: string,
  debug: boolean,
): LoggedChild {
  const log = openSync(file, "a");
  const logStart = statSync(file).size;
  const child = fork(script, args, { stdio: ["ignore", log, log, "ipc"], env, serialization: "advanced" });
  closeSync(log);
  let said: { message: string; user: boolean } | undefined;
  child.on("message", (event: ProgressEvent) => {
    if (event.type === "error") said ??= event;
  });
  child.on("error", (error) => (said ??= { message: error.message, user: false }));
  return {
    child,
    saidUserError: () => said?.user === true,
    explain: (code, signal) => {
      if (said?.user === true && !debug) return said.message;
      const how = `${howItEnded(code, signal)}${signal === null ? " before the run was over" : ""}`;
      const tail = logTail(file, logStart);
      return [
        `${role} ${how}${said ? `: ${said.message}` : "."}`,
        ...(tail === "" ? [] : [tail]),
        `Its log: ${file}`,
      ].join("\n");
    },
  };
}

const firstLine = (text: string): string => text.slice(0, text.indexOf("\n") === -1 ? undefined : text.indexOf("\n"));
