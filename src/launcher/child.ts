/** One child process of a run: forked with a log, told to stop, and explained when it ends. */
import { fork, type ChildProcess } from "node:child_process";
import { closeSync, openSync, statSync } from "node:fs";
import type { LauncherMessage, ProgressEvent } from "../protocol/progress.js";
import { howItEnded, logTail } from "../run/children.js";
import { LifeSigns } from "./liveness.js";

export interface ChildOptions {
  /** "learner", "actor-0", … */
  readonly role: string;
  readonly script: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  /** File that takes its output. */
  readonly log: string;
  /** How long its main thread may compute without a life sign; default: any time. */
  readonly busyLimitMs?: number;
  /** Show the log's tail for user errors as well. */
  readonly debug: boolean;
}

export class LoggedChild {
  readonly role: string;
  readonly process: ChildProcess;
  readonly life: LifeSigns;
  /** Named once as silent, until it moves again. */
  isSuspect = false;
  readonly #options: ChildOptions;
  readonly #logStart: number;
  #said: { message: string; user: boolean } | undefined;
  #killedFor: string | undefined;

  constructor(options: ChildOptions) {
    this.role = options.role;
    this.life = new LifeSigns(performance.now(), options.busyLimitMs);
    this.#options = options;
    const log = openSync(options.log, "a");
    this.#logStart = statSync(options.log).size;
    this.process = fork(options.script, options.args, {
      stdio: ["ignore", log, log, "ipc"],
      env: options.env,
      serialization: "advanced",
    });
    closeSync(log);
    this.process.on("message", (event: ProgressEvent) => {
      this.life.sign(performance.now());
      if (event.type === "error") this.#said ??= event;
    });
    this.process.on("error", (error) => (this.#said ??= { message: error.message, user: false }));
  }

  /** True when it ended by an error that the user can mend. */
  get saidUserError(): boolean {
    return this.#said?.user === true;
  }

  tell(message: LauncherMessage): void {
    // the callback takes the error of a channel that closes meanwhile; 'close' then reports the end
    if (this.process.connected) this.process.send(message, () => {});
  }

  /** Kills it at once. @param why for the explanation of its end */
  kill(why?: string): void {
    this.#killedFor ??= why;
    this.process.kill("SIGKILL");
  }

  killAfter(delayMs: number): void {
    const timer = setTimeout(() => this.kill(`it did not end within ${delayMs / 1000} s`), delayMs);
    this.process.once("close", () => clearTimeout(timer));
  }

  /** Says how it ended: one line of cause first. */
  explain(code: number | null, signal: NodeJS.Signals | null): string {
    if (this.saidUserError && !this.#options.debug) return this.#said!.message;
    const how =
      this.#killedFor === undefined
        ? `${howItEnded(code, signal)}${signal === null ? " before the run was over" : ""}`
        : `was killed: ${this.#killedFor}`;
    const tail = logTail(this.#options.log, this.#logStart);
    return [
      `${this.role} ${how}${this.#said ? `: ${this.#said.message}` : "."}`,
      ...(tail === "" ? [] : [tail]),
      `Its log: ${this.#options.log}`,
    ].join("\n");
  }
}
