/** Shares requests out among engine threads; answers do not depend on which engine gives them. */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { UserError } from "../errors.js";
import type { ModelFiles } from "../model/read-model.js";
import type { PolicyVersion } from "../model/identity.js";
import type { EngineOptions, GenerateRequest, GeneratedGroup, StreamedTokens } from "./engine-types.js";
import type { EngineThreadData, FromEngine, ToEngine } from "./engine-thread.js";

export interface PoolOptions extends Omit<EngineOptions, "fused"> {
  readonly engines: number;
  /** ONNX Runtime threads of each engine; 0 = the cores, shared out. */
  readonly threads: number;
}

/** The other end of serveEngine: a Worker, or a MessagePort. */
export interface EnginePort {
  postMessage(message: ToEngine): void;
  on(event: "message", listener: (message: FromEngine) => void): unknown;
  on(event: "error", listener: (error: unknown) => void): unknown;
  on(event: "exit", listener: () => void): unknown;
}

export class Cancelled extends Error {
  override name = "Cancelled";
}

interface Engine {
  readonly port: EnginePort;
  readonly ended: Promise<void>;
  /** Completions it was given and has not answered. */
  rows: number;
}

interface Pending {
  readonly request: GenerateRequest;
  readonly onTokens: (tokens: StreamedTokens) => void;
  readonly resolve: (group: GeneratedGroup) => void;
  readonly reject: (error: unknown) => void;
  /** Null while it waits. */
  engine: Engine | null;
}

export class EnginePool {
  /** Rejects when an engine cannot go on; every request has then been rejected, too. */
  readonly failed: Promise<never>;
  /** Completions asked for and not yet answered, running or waiting. */
  rows = 0;
  /** Completions that can run at once. */
  readonly capacity: number;
  readonly #engines: readonly Engine[];
  readonly #maxRows: number;
  readonly #pending = new Map<string, Pending>();
  readonly #waiting: Pending[] = [];
  #stopping = false;
  /** Why the engines cannot go on. */
  #failure: { readonly error: unknown } | null = null;
  #fail!: (error: unknown) => void;

  /** @param maxRows most rows in a batch; an engine gets twice that, so a full batch is queued. */
  constructor(ports: readonly EnginePort[], maxRows: number) {
    this.#engines = ports.map((port) => ({ port, rows: 0, ended: new Promise((resolve) => port.on("exit", resolve)) }));
    this.#maxRows = maxRows;
    this.capacity = ports.length * maxRows;
    this.failed = new Promise((_, reject) => {
      this.#fail = (error) => {
        this.#failure ??= { error };
        reject(error);
        for (const id of this.#pending.keys()) this.#take(id)?.reject(error);
      };
    });
    this.failed.catch(() => {}); // told to whoever awaits it
    for (const port of ports) {
      port.on("message", (message) => this.#receive(message));
      port.on("error", (error) => this.#fail(error));
      port.on("exit", () => {
        if (!this.#stopping) this.#fail(new Error("an engine's thread ended by itself"));
      });
    }
  }

  /** @returns the pool and its weights' version @throws UserError when the weights do not fit */
  static async open(model: ModelFiles, options: PoolOptions): Promise<{ pool: EnginePool; version: PolicyVersion }> {
    const { shape, lora, baseFolder } = model;
    const { engines, ...engine } = options;
    const threads = options.threads || Math.max(1, Math.floor(availableParallelism() / engines));
    const workerData: EngineThreadData = {
      shape,
      options: { ...engine, threads },
      lora: lora === null ? null : { spec: lora, baseFolder },
    };
    const packed = model.published();
    const url = new URL("./engine-thread.js", import.meta.url);
    const pool = new EnginePool(
      Array.from({ length: engines }, () => new Worker(url, { workerData })),
      options.maxRows,
    );
    try {
      return { pool, version: await pool.#load(packed) };
    } catch (error) {
      await pool.stop();
      throw error;
    }
  }

  async #load(packed: Float32Array): Promise<PolicyVersion> {
    const versions = this.#engines.map(({ port }) => {
      const version = new Promise<PolicyVersion>((resolve) => {
        port.on("message", (message) => {
          if (message.type === "loaded") resolve(message.version);
        });
      });
      port.postMessage({ type: "load", packed, iteration: 0 });
      return version;
    });
    return (await Promise.race([Promise.all(versions), this.failed]))[0]!;
  }

  /**
   * @param request already checked: the engine ends at one it cannot serve
   * @param onTokens new tokens after each segment but the last, whose tokens are in the result
   * @throws Cancelled
   */
  async generate(
    request: GenerateRequest,
    onTokens: (tokens: StreamedTokens) => void = () => {},
  ): Promise<GeneratedGroup> {
    if (this.#failure !== null) throw this.#failure.error;
    return new Promise((resolve, reject) => {
      const pending: Pending = { request, onTokens, resolve, reject, engine: null };
      this.#pending.set(request.requestId, pending);
      this.#waiting.push(pending);
      this.rows += request.groupSize;
      this.#handOut();
    });
  }

  /** Ends one completion where it is; the others of its request go on. */
  endCompletion(requestId: string, completion: number): void {
    this.#pending.get(requestId)?.engine?.port.postMessage({ type: "cancel", requestId, completion });
  }

  /** Drops a request; its promise rejects with Cancelled. Ignores a finished one. */
  cancel(requestId: string): void {
    const pending = this.#take(requestId);
    if (pending === undefined) return;
    if (pending.engine === null) this.#waiting.splice(this.#waiting.indexOf(pending), 1);
    else pending.engine.port.postMessage({ type: "cancel", requestId });
    pending.reject(new Cancelled(requestId));
    this.#handOut();
  }

  /** Ends the threads, after the segment at hand. Resolves when they are gone. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const { port } of this.#engines) port.postMessage({ type: "stop" });
    await Promise.all(this.#engines.map(({ ended }) => ended));
  }

  /** Keeps every engine's batch full, and its next one prepared. */
  #handOut(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const engine = this.#engines.reduce((least, other) => (other.rows < least.rows ? other : least));
      if (engine.rows > 0 && engine.rows + next.request.groupSize > 2 * this.#maxRows) return;
      this.#waiting.shift();
      next.engine = engine;
      engine.rows += next.request.groupSize;
      engine.port.postMessage({ type: "submit", request: next.request });
    }
  }

  #take(requestId: string): Pending | undefined {
    const pending = this.#pending.get(requestId);
    if (pending === undefined) return undefined;
    this.#pending.delete(requestId);
    this.rows -= pending.request.groupSize;
    if (pending.engine !== null) pending.engine.rows -= pending.request.groupSize;
    return pending;
  }

  #receive(message: FromEngine): void {
    if (message.type === "failed")
      return this.#fail(
        message.user ? new UserError(message.message) : new Error(`the engine failed: ${message.message}`),
      );
    if (message.type === "loaded") return;
    for (const tokens of message.streamed) this.#pending.get(tokens.requestId)?.onTokens(tokens);
    for (const group of message.groups) this.#take(group.requestId)?.resolve(group);
    this.#handOut();
  }
}
