/**
 * Runs the learner and its actors as child processes until the run is over; leaves none behind.
 *
 *   learner ──listening──▶ actors start ──…──▶ learner "done" + exit ──▶ actors stop ──▶ resolved
 *   a dead actor is started again; after a dead learner both sides start from the last checkpoint.
 */
import type { RunConfig } from "../config/schema.js";
import { deviceEnv } from "../machine/devices.js";
import { TOKEN_VARIABLE, type ProgressEvent, type RunSummary } from "../protocol/progress.js";
import { processStat } from "../protocol/process-stat.js";
import { isStopSignal } from "../run/children.js";
import { recordIncident } from "../run/incidents.js";
import { configFile, logFile } from "../run/paths.js";
import { rotateLogs } from "../run/rotate-logs.js";
import type { DevicePlan } from "./assign-devices.js";
import { LoggedChild } from "./child.js";
import { CollapseWatch } from "./collapse.js";
import { RESTART_WINDOW_MS, RestartBudget } from "./restarts.js";
import { threadEnv, type ThreadPlan } from "./threads.js";
import { Watchdog } from "./watchdog.js";

/** How long a child may take to exit after its work is done, or after another child failed. */
const EXIT_GRACE_MS = 10_000;
/** How long the learner may take for a last checkpoint when the run is ended by dead actors. */
const CHECKPOINT_GRACE_MS = 120_000;
/** A reward function that blocks its process for so long beyond its time-out costs that process. */
const REWARD_GRACE_MS = 5_000;
/** A learner that has told its actors to go ends within this time. */
const LEARNER_FOLLOWS_MS = 30_000;
/** How often children are looked at. */
const LOOK_MS = 2_000;

export interface SuperviseOptions {
  readonly runDir: string;
  readonly run: Pick<RunConfig, "actors" | "learner" | "reward" | "serial">;
  readonly threads: ThreadPlan;
  readonly devices: DevicePlan;
  /** Folders in which a process on a GPU finds CUDA's libraries. */
  readonly libraryPath: { readonly learner: readonly string[]; readonly actor: readonly string[] };
  /** JavaScript files to fork. */
  readonly scripts: { readonly learner: string; readonly actor: string };
  readonly resume: boolean;
  /** Show the log's tail for user errors as well. */
  readonly debug: boolean;
  readonly onEvent: (event: ProgressEvent) => void;
  readonly onActors: (running: number, restarts: number) => void;
  /** Removes what a process left behind, such as sockets and shared memory. */
  readonly cleanUpAfter: (pid: number) => void;
}

export interface RunEnd {
  /** Present when the learner ended well. */
  readonly summary?: RunSummary;
  /** Present when the run failed: why, ready to be shown. */
  readonly failure?: string;
}

type Addresses = Extract<ProgressEvent, { type: "listening" }>;

export class Supervisor {
  /** Resolves when no child is left. Never rejects. */
  readonly ended: Promise<RunEnd>;
  readonly #options: SuperviseOptions;
  readonly #children = new Set<LoggedChild>();
  readonly #actors = new Set<LoggedChild>();
  readonly #actorBudget: RestartBudget;
  readonly #learnerBudget: RestartBudget;
  readonly #watchdog = new Watchdog(performance.now());
  readonly #collapse = new CollapseWatch();
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #look: NodeJS.Timeout;
  #learner!: LoggedChild;
  #lookedMs = performance.now();
  #isEnding = false;
  #restarts = 0;
  #summary: RunSummary | undefined;
  #failure: string | undefined;
  #resolveEnded!: (end: RunEnd) => void;

  constructor(options: SuperviseOptions) {
    this.#options = options;
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
    this.#actorBudget = new RestartBudget(options.run.actors.max_restarts);
    this.#learnerBudget = new RestartBudget(options.run.learner.max_restarts);
    this.#look = setInterval(() => this.#lookAtChildren(), LOOK_MS);
    this.#startLearner(options.resume);
  }

  /** Asks the learner to write a checkpoint and go; the actors follow. */
  stop(): void {
    this.#isEnding = true;
    this.#learner.tell({ type: "stop" });
    this.#endIfEmpty();
  }

  /** Asks the learner for a checkpoint; the run goes on. */
  checkpoint(): void {
    this.#learner.tell({ type: "checkpoint" });
  }

  /** Kills every child at once. */
  kill(): void {
    this.#isEnding = true;
    if (this.#summary === undefined) this.#failure ??= "the run was killed before it wrote a checkpoint.";
    for (const child of this.#children) child.kill();
    this.#endIfEmpty();
  }

  #startLearner(resume: boolean): void {
    const { run, threads, devices, libraryPath, scripts } = this.#options;
    const env = childEnv(threads.learner, devices.learner, libraryPath.learner);
    const mode = [...(run.serial ? ["--serial"] : []), ...(resume ? ["--resume"] : [])];
    const learner = this.#start("learner", scripts.learner, threads.learner, env, mode);
    this.#learner = learner;
    this.#watchdog.reset(performance.now());
    learner.process.on("message", (event: ProgressEvent) => {
      if (event.type === "alive") return;
      this.#watchdog.see(event, performance.now());
      if (event.type === "listening")
        for (let index = 0; index < run.actors.num; index++) this.#startActor(index, event);
      if (event.type === "done") {
        this.#summary = event.summary;
        this.#isEnding = true;
        learner.killAfter(EXIT_GRACE_MS);
      }
      this.#options.onEvent(event);
      const collapse = event.type === "iteration" ? this.#collapse.see(event.metrics) : null;
      if (collapse !== null) this.#tell("learner", collapse);
    });
    learner.process.on("close", (code, signal) => {
      // It dies of a signal that asks only while it loads: there is nothing to save yet.
      if (this.#isEnding && signal !== null && isStopSignal(signal)) this.#endActors();
      else this.#learnerEnded(learner.explain(code, signal));
    });
  }

  #learnerEnded(why: string): void {
    // a learner that died while being stopped lost its last checkpoint: that is a failure too
    if (this.#summary !== undefined || this.#isEnding || this.#learner.saidUserError) {
      if (this.#summary === undefined) this.#failure ??= why;
      return this.#endActors();
    }
    const { max_restarts: most } = this.#options.run.learner;
    const pause = this.#learnerBudget.take(performance.now());
    if (pause === null) {
      this.#failure ??= `${why}\n${usedUp("learner.max_restarts", most)}`;
      return this.#endActors();
    }
    const used = this.#learnerBudget.used(performance.now());
    this.#tell("learner", `${firstLine(why)} Going on from the last checkpoint (restart ${used} of ${most}).`);
    for (const actor of this.#actors) actor.kill("its learner is gone");
    this.#later(pause, () => this.#startLearner(true));
  }

  #startActor(index: number, addresses: Addresses): void {
    if (this.#isEnding || this.#learner.process.exitCode !== null) return;
    const { run, threads, devices, libraryPath, scripts } = this.#options;
    const env = childEnv(threads.actor, devices.actors[index] ?? null, libraryPath.actor);
    const args = ["--index", String(index), "--work", addresses.work, "--weights", addresses.weights];
    const withToken = { ...env, [TOKEN_VARIABLE]: addresses.token };
    const busyLimitMs = 1_000 * run.reward.timeout_seconds + REWARD_GRACE_MS;
    const actor = this.#start(`actor-${index}`, scripts.actor, threads.actor, withToken, args, busyLimitMs);
    const learner = this.#learner;
    this.#actors.add(actor);
    this.#showActors();
    actor.process.on("message", (event: ProgressEvent) => {
      if (event.type !== "alive") this.#options.onEvent(event);
    });
    actor.process.on("close", (code, signal) => {
      this.#actors.delete(actor);
      const hasNewLearner =
        learner !== this.#learner || learner.process.exitCode !== null || learner.process.signalCode !== null;
      if (this.#isEnding || hasNewLearner) return;
      const ended = () => this.#actorEnded(actor, index, addresses, actor.explain(code, signal));
      // it goes well only when the learner said so, whose own end then follows and has the reason
      if (code !== 0) return ended();
      this.#later(LEARNER_FOLLOWS_MS, () => learner === this.#learner && learner.process.exitCode === null && ended());
    });
  }

  #actorEnded(actor: LoggedChild, index: number, addresses: Addresses, why: string): void {
    const { max_restarts: most } = this.#options.run.actors;
    // a user error would only repeat itself
    const pause = actor.saidUserError ? null : this.#actorBudget.take(performance.now());
    if (pause === null) {
      this.#failure ??= actor.saidUserError ? why : `${why}\n${usedUp("actors.max_restarts", most)}`;
      this.#showActors();
      this.stop();
      this.#learner.killAfter(CHECKPOINT_GRACE_MS);
      return;
    }
    this.#restarts++;
    const used = this.#actorBudget.used(performance.now());
    this.#tell(actor.role, `${firstLine(why)} Restarting it (restart ${used} of ${most}).`);
    const learner = this.#learner;
    this.#later(pause, () => {
      if (learner === this.#learner) this.#startActor(index, addresses);
    });
  }

  #start(
    role: string,
    script: string,
    numThreads: number,
    env: NodeJS.ProcessEnv,
    args: readonly string[],
    busyLimitMs = Infinity,
  ): LoggedChild {
    const { runDir, debug, cleanUpAfter } = this.#options;
    const words = ["--config", configFile(runDir), "--threads", String(numThreads), ...args];
    const child = new LoggedChild({ role, script, args: words, env, log: logFile(runDir, role), busyLimitMs, debug });
    this.#children.add(child);
    child.process.on("close", () => {
      this.#children.delete(child);
      if (child.process.pid !== undefined) cleanUpAfter(child.process.pid);
      // after the other listeners of this event, which may start a child
      setImmediate(() => this.#endIfEmpty());
    });
    return child;
  }

  /** Looks for children that hang, and for a run that gets nowhere. */
  #lookAtChildren(): void {
    rotateLogs(this.#options.runDir);
    const now = performance.now();
    // This very process stood still, with all of its children perhaps: a suspended job or laptop.
    const wasPaused = now - this.#lookedMs > 3 * LOOK_MS;
    this.#lookedMs = now;
    if (wasPaused) {
      this.#watchdog.reset(now);
      for (const child of this.#children) child.life.forgive(now);
      return;
    }
    for (const child of this.#children) {
      const { pid } = child.process;
      const verdict = child.life.judge(now, pid === undefined ? null : processStat(pid));
      if (verdict.kind === "well") {
        child.isSuspect = false;
        continue;
      }
      const message = `${child.role} gave no sign of life for ${verdict.seconds} s: ${verdict.why}.`;
      if (!child.isSuspect) this.#tell(child.role, message);
      child.isSuspect = true;
      if (verdict.kind === "hung") child.kill(`it gave no sign of life for ${verdict.seconds} s, ${verdict.why}`);
    }
    const overdue = this.#isEnding ? null : this.#watchdog.overdue(now);
    if (overdue !== null) this.#learner.kill(overdue);
  }

  #endActors(): void {
    this.#isEnding = true;
    for (const actor of this.#actors) {
      actor.tell({ type: "stop" });
      actor.killAfter(EXIT_GRACE_MS);
    }
  }

  /** Says a thing that went wrong: on the terminal, and in the run directory for `status`. */
  #tell(role: string, message: string): void {
    recordIncident(this.#options.runDir, role, message);
    this.#options.onEvent({ type: "log", message });
  }

  #showActors(): void {
    this.#options.onActors(this.#actors.size, this.#restarts);
  }

  #later(delayMs: number, act: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (!this.#isEnding) act();
      this.#endIfEmpty();
    }, delayMs);
    this.#timers.add(timer);
  }

  #endIfEmpty(): void {
    if (this.#children.size > 0 || (this.#timers.size > 0 && !this.#isEnding)) return;
    clearInterval(this.#look);
    for (const timer of this.#timers) clearTimeout(timer);
    this.#resolveEnded({
      ...(this.#summary && { summary: this.#summary }),
      ...(this.#failure !== undefined && { failure: this.#failure }),
    });
  }
}

const usedUp = (key: string, most: number): string =>
  `${key} (${most} in ${RESTART_WINDOW_MS / 60_000} minutes) is used up; the run ends. Go on later with --resume.`;

/** Environment of a child: its threads, its GPU and the folders of CUDA's libraries. */
function childEnv(numThreads: number, device: string | null, libraryPath: readonly string[]): NodeJS.ProcessEnv {
  return { ...process.env, ...threadEnv(numThreads), ...deviceEnv(device, libraryPath, process.env) };
}

const firstLine = (text: string): string => text.split("\n", 1)[0]!;
