/**
 * A rollout actor: takes tasks, has its engine answer them, scores the answers and sends them back.
 *   task ─▶ waiting ─▶ running (engine) ─▶ scored ─▶ unacked ─▶ forgotten
 * Weights are fetched in the background and adopted when nothing is in flight.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Dealer } from "zeromq";
import { UserError, messageOf } from "../errors.js";
import type { PolicyVersion } from "../model/identity.js";
import { ProtocolError, decode, encode, groupToWire, taskFromWire } from "../protocol/codec.js";
import type { Task, TrajectoryGroup } from "../protocol/messages.js";
import { type Addresses, HEARTBEAT_MS, SILENCE_MS, Writer, connectDealer, undamaged } from "../protocol/sockets.js";
import { type Announcement, fromLearner } from "../protocol/wire-schemas.js";
import type { GeneratedGroup } from "../engine/engine-types.js";
import type { FromEngine } from "../engine/engine-thread.js";
import type { EnginePort } from "../engine/pool.js";
import { EngineWatch } from "./engine-watch.js";
import { WeightFetcher } from "./weight-fetcher.js";

export interface ActorOptions {
  readonly addresses: Addresses;
  readonly token: string;
  readonly index: number;
  /** Completions taken at once: the engine's maxRows. */
  readonly capacity: number;
  /** Bytes of the packed weights this actor's model needs. */
  readonly weightBytes: number;
  /** The other end of serveEngine. */
  readonly engine: EnginePort;
  readonly score: (task: Task, generated: GeneratedGroup, actorId: string) => Promise<TrajectoryGroup>;
  readonly log: (level: "info" | "warn" | "error", message: string, fields?: Record<string, unknown>) => void;
  readonly heartbeatMs?: number;
  /** A learner silent for so long is given up; Infinity under a launcher, which judges it. */
  readonly silenceMs?: number;
  /** An engine that neither moves nor computes for so long is given up. */
  readonly engineMs?: number;
}

/** An answer without ack for this long is sent again; the learner recognises duplicates. */
const RESEND_MS = 10_000;
/** Loads whose hash is not the announced one before the actor gives up. */
const MAX_HASH_MISMATCHES = 3;

export class Actor {
  /** Fresh for each start: a restarted actor is another one. Also its ZeroMQ identity. */
  readonly id: string;
  /** Resolves with the learner's reason to stop; rejects when the actor cannot go on. */
  readonly done: Promise<string>;

  readonly #options: ActorOptions;
  readonly #socket: Dealer;
  readonly #writer: Writer;
  readonly #fetcher: WeightFetcher;
  readonly #timer: NodeJS.Timeout;
  #resolveDone!: (reason: string) => void;
  #rejectDone!: (error: unknown) => void;

  readonly #waiting: Task[] = [];
  readonly #running = new Map<string, Task>();
  readonly #scoring = new Set<string>();
  readonly #unacked = new Map<string, { frames: Uint8Array[]; sentMs: number }>();

  /** Weights the engine holds; null before the first load and after a failed one. */
  #version: PolicyVersion | null = null;
  #announced: Announcement | null = null;
  /** Fetched, waiting for the engine to drain. */
  #fetched: { packed: Float32Array; announcement: Announcement } | null = null;
  #fetching = false;
  #loading: Announcement | null = null;
  #hashMismatches = 0;

  #steps = 0;
  readonly #engineWatch: EngineWatch;
  #lastLearnerMs = performance.now();
  #lastTickMs = performance.now();
  readonly #clock = { busyMs: 0, idleMs: 0, sinceMs: performance.now(), busy: false };
  readonly #counters = new Map<string, number>();
  #closed = false;

  constructor(options: ActorOptions) {
    this.#options = options;
    this.#engineWatch = new EngineWatch(options.engineMs);
    this.id = `actor-${options.index}-${process.pid}-${randomBytes(4).toString("hex")}`;
    this.done = new Promise((resolve, reject) => {
      this.#resolveDone = resolve;
      this.#rejectDone = reject;
    });
    this.#socket = connectDealer(options.addresses.work, this.id);
    this.#writer = new Writer(this.#socket);
    this.#fetcher = new WeightFetcher(options.addresses.weights, this.id, options.token, (name) => this.#count(name));
    options.engine.on("message", (message) => this.#fromEngine(message));
    this.#timer = setInterval(() => this.#tick(), options.heartbeatMs ?? HEARTBEAT_MS);
    this.#sendHello();
    this.#receive().catch(this.fail);
  }

  /** Says bye, so that the learner hands our tasks to others at once, and closes the sockets. */
  async close(reason: string): Promise<void> {
    if (this.#closed) return;
    clearInterval(this.#timer);
    await this.#writer.send(encode({ type: "bye", reason })).catch(() => {});
    this.#closed = true;
    this.#socket.close();
    this.#fetcher.close();
  }

  // ---- learner

  async #receive(): Promise<void> {
    for await (const frames of this.#socket) {
      this.#lastLearnerMs = performance.now();
      try {
        this.#fromLearner(frames);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        this.#count("messages_malformed");
        this.#options.log("warn", "malformed message", { reason: error.message });
      }
    }
  }

  #fromLearner(frames: Buffer[]): void {
    const { header, tensors } = decode(fromLearner, undamaged(frames));
    switch (header.type) {
      case "heartbeat":
        this.#announced = header.weights;
        this.#refreshWeights().catch(this.fail);
        break;
      case "task":
        this.#take(taskFromWire(header, tensors));
        break;
      case "ack":
        this.#unacked.delete(header.taskId);
        break;
      case "refused":
        if (header.fatal) return this.fail(new UserError(`The learner refused this actor: ${header.reason}.`));
        this.#options.log("warn", "answer refused", { taskId: header.taskId, reason: header.reason });
        this.#count("answers_refused");
        if (header.taskId !== null) this.#unacked.delete(header.taskId);
        break;
      case "unknown":
        this.#sendHello();
        break;
      case "stop":
        this.#resolveDone(header.reason);
    }
  }

  #take(task: Task): void {
    // Leased again while still in hand: the answer is on its way.
    if (this.#held().includes(task.taskId)) return this.#count("tasks_already_held");
    this.#waiting.push(task);
    this.#pump();
  }

  #held(): string[] {
    return [...this.#waiting.map((t) => t.taskId), ...this.#running.keys(), ...this.#scoring, ...this.#unacked.keys()];
  }

  // ---- engine

  /** Gives the engine newer weights once it is empty, else tasks its weights may answer. */
  #pump(): void {
    if (this.#loading !== null) return;
    if (this.#fetched !== null) {
      if (this.#running.size > 0) return;
      const { packed, announcement } = this.#fetched;
      this.#fetched = null;
      this.#loading = announcement;
      return this.#options.engine.postMessage({ type: "load", packed, iteration: announcement.iteration });
    }
    if (this.#version === null) return;
    const { iteration } = this.#version;
    const ready = this.#waiting.filter((task) => task.minIteration <= iteration);
    if (ready.length === 0) return;
    const later = this.#waiting.filter((task) => task.minIteration > iteration);
    this.#waiting.splice(0, this.#waiting.length, ...later);
    this.#markTime(true);
    for (const task of ready) {
      this.#running.set(task.taskId, task);
      const { taskId: requestId, promptIds, groupSize, seed, sampling } = task;
      const request = { requestId, promptIds, groupSize, seed, sampling };
      this.#options.engine.postMessage({ type: "submit", request });
    }
  }

  #fromEngine(message: FromEngine): void {
    if (this.#closed) return;
    switch (message.type) {
      case "loaded":
        this.#engineWatch.mark();
        this.#loaded(message.version);
        break;
      case "stepped":
        this.#engineWatch.mark();
        this.#steps = message.steps;
        for (const group of message.groups) this.#answered(group);
        break;
      case "failed":
        this.fail(message.user ? new UserError(message.message) : new Error(`the engine failed: ${message.message}`));
    }
  }

  #answered(generated: GeneratedGroup): void {
    const task = this.#running.get(generated.requestId);
    if (task === undefined)
      return this.fail(new Error(`the engine answered ${generated.requestId}, which it was not asked`));
    this.#running.delete(task.taskId);
    this.#scoring.add(task.taskId);
    if (this.#running.size === 0) this.#markTime(false);
    this.#pump();
    this.#score(task, generated).catch(this.fail);
  }

  async #score(task: Task, generated: GeneratedGroup): Promise<void> {
    const group = await this.#options.score(task, generated, this.id);
    const { header, tensors } = groupToWire(group);
    const frames = encode(header, tensors);
    this.#scoring.delete(task.taskId);
    this.#unacked.set(task.taskId, { frames, sentMs: performance.now() });
    this.#send(frames);
  }

  // ---- weights

  /** Fetches nothing while fetched weights wait: the engine reads the one buffer in place. */
  async #refreshWeights(): Promise<void> {
    if (this.#fetching) return;
    this.#fetching = true;
    try {
      while (
        !this.#closed &&
        this.#fetched === null &&
        this.#loading === null &&
        this.#announced !== null &&
        !sameVersion(this.#announced, this.#version)
      ) {
        const target = this.#announced;
        if (target.totalBytes !== this.#options.weightBytes)
          throw new UserError(
            `The learner offers weights of ${target.totalBytes} bytes, this actor's model needs ${this.#options.weightBytes}. ` +
              `Start both with the same model.path.`,
          );
        const packed = await this.#fetcher.fetch(target);
        if (packed !== null) this.#fetched = { packed, announcement: target };
        // Gone: the next announcement is on its way.
        else await sleep(10);
        this.#pump();
      }
    } finally {
      this.#fetching = false;
    }
  }

  #loaded(version: PolicyVersion): void {
    const expected = this.#loading!;
    this.#loading = null;
    if (sameVersion(version, expected)) {
      this.#version = version;
      this.#hashMismatches = 0;
      this.#sendHeartbeat();
      this.#pump();
      // a newer policy may have been announced meanwhile
      this.#refreshWeights().catch(this.fail);
      return;
    }
    // Nothing may be sampled with weights of an unknown identity.
    this.#version = null;
    this.#count("weights_hash_mismatches");
    this.#options.log("error", "loaded weights have another hash than announced", {
      expected: expected.sha256,
      found: version.sha256,
    });
    if (++this.#hashMismatches >= MAX_HASH_MISMATCHES)
      return this.fail(
        new Error(`weights of iteration ${expected.iteration} arrived damaged ${MAX_HASH_MISMATCHES} times`),
      );
    this.#refreshWeights().catch(this.fail);
  }

  // ---- life signs

  #tick(): void {
    const { heartbeatMs = HEARTBEAT_MS, silenceMs = SILENCE_MS } = this.#options;
    const now = performance.now();
    // After a pause of this process the learner's heartbeats wait in the socket: read first.
    const paused = now - this.#lastTickMs > 3 * heartbeatMs;
    this.#lastTickMs = now;
    if (paused) {
      this.#lastLearnerMs = now;
      this.#engineWatch.mark();
    }
    if (now - this.#lastLearnerMs > silenceMs)
      return this.fail(
        new UserError(
          `The learner has been silent for ${silenceMs / 1_000} s: it is gone, or its machine is. Resume the run with --resume.`,
        ),
      );
    if (this.#running.size === 0 && this.#loading === null) this.#engineWatch.mark();
    const hung = this.#engineWatch.hung(now);
    if (hung !== null) return this.fail(new Error(`the engine has not moved for ${hung} s and does not compute`));
    this.#sendHeartbeat();
    for (const answer of this.#unacked.values()) {
      if (now - answer.sentMs < RESEND_MS) continue;
      answer.sentMs = now;
      this.#count("answers_sent_again");
      this.#send(answer.frames);
    }
  }

  #sendHello(): void {
    const { token, index, capacity } = this.#options;
    this.#send(encode({ type: "hello", token, pid: process.pid, index, capacity }));
  }

  #sendHeartbeat(): void {
    const { capacity } = this.#options;
    this.#markTime(this.#clock.busy);
    const { busyMs, idleMs } = this.#clock;
    const counters = Object.fromEntries(this.#counters);
    const [version, steps] = [this.#version, this.#steps];
    this.#send(encode({ type: "heartbeat", capacity, version, held: this.#held(), steps, busyMs, idleMs, counters }));
  }

  #send(frames: readonly Uint8Array[]): void {
    // An unreachable learner shows as silence, which `tick` judges.
    this.#writer.send(frames).catch((error: unknown) => {
      if (!this.#closed) this.#options.log("warn", "could not send to the learner", { reason: messageOf(error) });
    });
  }

  /** Books the time since the last call as busy or idle, and sets what the time from now on is. */
  #markTime(busy: boolean): void {
    const now = performance.now();
    this.#clock[this.#clock.busy ? "busyMs" : "idleMs"] += now - this.#clock.sinceMs;
    this.#clock.sinceMs = now;
    this.#clock.busy = busy;
  }

  #count(name: string): void {
    this.#counters.set(name, (this.#counters.get(name) ?? 0) + 1);
  }

  /** Ends the actor: `done` rejects with this error. */
  readonly fail = (error: unknown): void => {
    if (!this.#closed) this.#rejectDone(error);
  };
}

function sameVersion(a: PolicyVersion, b: PolicyVersion | null): boolean {
  return a.iteration === b?.iteration && a.sha256 === b.sha256;
}
