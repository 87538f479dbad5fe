/**
 * The asking side of an engine in a thread of its own (actors/engine-thread.ts): requests by id, their tokens as they
 * come, cancelling. The thread batches continuously, so that a request joins those in flight at the next segment.
 * Knows neither text nor HTTP.
 */
import type { FromEngine, ToEngine } from "../actors/engine-thread.js";
import type { GenerateRequest, GeneratedGroup, StreamedTokens } from "../actors/engine-types.js";
import { UserError } from "../errors.js";
import type { PolicyVersion } from "../model/weights.js";

/** The other end of serveEngine: a Worker, or a MessagePort. */
export interface EnginePort {
  postMessage(message: ToEngine): void;
  on(event: "message", listener: (message: FromEngine) => void): unknown;
  on(event: "error", listener: (error: unknown) => void): unknown;
}

/** The request was cancelled: nobody waits for its answer. */
export class Cancelled extends Error {
  override name = "Cancelled";
}

interface Pending {
  readonly rows: number;
  readonly onTokens: (tokens: StreamedTokens) => void;
  readonly resolve: (group: GeneratedGroup) => void;
  readonly reject: (error: unknown) => void;
}

export class EngineClient {
  /** Rejects when the engine cannot go on; every request has then been rejected, too. */
  readonly failed: Promise<never>;
  /** Completions asked for and not yet answered, running or queued. */
  rows = 0;
  private readonly port: EnginePort;
  private readonly pending = new Map<string, Pending>();
  private loaded: ((version: PolicyVersion) => void) | undefined;
  private fail!: (error: unknown) => void;

  constructor(port: EnginePort) {
    this.port = port;
    this.failed = new Promise((_, reject) => {
      this.fail = (error) => {
        reject(error);
        for (const id of this.pending.keys()) this.take(id)?.reject(error);
      };
    });
    this.failed.catch(() => {}); // told to whoever awaits it
    port.on("message", (message) => this.receive(message));
    port.on("error", (error) => this.fail(error));
  }

  /** Hands weights over; `packed` belongs to the engine's thread afterwards. Shared memory is not copied on the way. */
  load(packed: Float32Array): Promise<PolicyVersion> {
    const version = new Promise<PolicyVersion>((resolve) => (this.loaded = resolve));
    this.port.postMessage({ type: "load", packed, iteration: 0 });
    return Promise.race([version, this.failed]);
  }

  /**
   * @param request already checked (actors/check-request.ts): the engine ends at one it cannot serve
   * @param onTokens new tokens after each segment; those of the last one come with the result only
   * @throws Cancelled
   */
  generate(request: GenerateRequest, onTokens: Pending["onTokens"]): Promise<GeneratedGroup> {
    return new Promise((resolve, reject) => {
      this.pending.set(request.requestId, { rows: request.groupSize, onTokens, resolve, reject });
      this.rows += request.groupSize;
      this.port.postMessage({ type: "submit", request });
    });
  }

  /** Ends one completion where it is; the others of its request go on. */
  endCompletion(requestId: string, completion: number): void {
    this.port.postMessage({ type: "cancel", requestId, completion });
  }

  /** Drops a request; its promise rejects with Cancelled. A finished one is let be. */
  cancel(requestId: string): void {
    const pending = this.take(requestId);
    if (pending === undefined) return;
    this.port.postMessage({ type: "cancel", requestId });
    pending.reject(new Cancelled(requestId));
  }

  stop(): void {
    this.port.postMessage({ type: "stop" });
  }

  private take(requestId: string): Pending | undefined {
    const pending = this.pending.get(requestId);
    if (pending === undefined) return undefined;
    this.pending.delete(requestId);
    this.rows -= pending.rows;
    return pending;
  }

  private receive(message: FromEngine): void {
    if (message.type === "loaded") return this.loaded?.(message.version);
    if (message.type === "failed")
      return this.fail(message.user ? new UserError(message.message) : new Error(message.message));
    for (const tokens of message.streamed) this.pending.get(tokens.requestId)?.onTokens(tokens);
    for (const group of message.groups) this.take(group.requestId)?.resolve(group);
  }
}
