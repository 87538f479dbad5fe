/**
 * The rollout source of a normal run: actors over ZeroMQ, reached through the dispatcher thread.
 * Lives on the main thread, which TensorFlow may block for seconds; whatever cannot wait happens in
 * the thread.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { RunConfig } from "../../config/schema.js";
import { UserError } from "../../errors.js";
import type { LayoutEntry } from "../../model/layout.js";
import { layoutSize } from "../../model/layout.js";
import type { PolicyVersion } from "../../model/identity.js";
import type { Addresses } from "../../protocol/sockets.js";
import type { ApiCall, DispatcherApi, DispatcherData, ThreadError, ThreadMessage } from "./dispatcher-thread.js";
import type { Evaluation, EvaluationRequest, RolloutSource, TrainingBatch } from "./rollout-source.js";

export interface RemoteSourceOptions {
  readonly run: RunConfig;
  readonly runDir: string;
  /** Completed training iterations; the first `publish` must be of this iteration. */
  readonly firstIteration: number;
  /** What travels: the model's layout, or the adapters'. */
  readonly layout: readonly LayoutEntry[];
  /** Hash of the frozen base with LoRA; null without. */
  readonly baseSha256: string | null;
}

interface Call {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class RemoteSource implements RolloutSource {
  /** Where actors connect. */
  readonly addresses: Addresses;
  private readonly worker: Worker;
  private readonly buffers: DispatcherData["buffers"];
  private readonly calls = new Map<number, Call>();
  private nextId = 0;
  private nextBuffer: 0 | 1 = 0;
  #onEvaluated: (done: number, total: number) => void = () => {};
  private broken: Error | null = null;
  private closing = false;

  private constructor(worker: Worker, buffers: DispatcherData["buffers"], addresses: Addresses) {
    this.worker = worker;
    this.buffers = buffers;
    this.addresses = addresses;
    worker.on("message", (message: ThreadMessage) => this.handle(message));
    worker.on("error", (error) => this.fail(error));
    worker.on("exit", (code) => this.fail(new Error(`the dispatcher thread ended with code ${code}`)));
  }

  /**
   * Starts the thread and binds the sockets.
   * @throws UserError for a used port, a bad data set or tokenizer
   */
  static async start(options: RemoteSourceOptions): Promise<RemoteSource> {
    const bytes = layoutSize(options.layout) * 4;
    const buffers = [new SharedArrayBuffer(bytes), new SharedArrayBuffer(bytes)] as const;
    const workerData: DispatcherData = { ...options, buffers };
    const worker = new Worker(new URL("./dispatcher-thread.js", import.meta.url), { workerData });
    try {
      const [first] = (await once(worker, "message")) as [ThreadMessage];
      if (first.type === "fatal") throw fromThreadError(first.error);
      if (first.type !== "listening")
        throw new Error(`expected the dispatcher thread's addresses, found ${first.type}`);
      return new RemoteSource(worker, buffers, first.addresses);
    } catch (error) {
      await worker.terminate();
      throw error;
    }
  }

  async publish(packed: Float32Array, iteration: number): Promise<PolicyVersion> {
    const buffer = this.nextBuffer;
    this.nextBuffer = buffer === 0 ? 1 : 0;
    new Float32Array(this.buffers[buffer]).set(packed);
    return this.call("publish", buffer, iteration);
  }

  batch(k: number): Promise<TrainingBatch> {
    return this.call("batch", k);
  }

  evaluate(request: EvaluationRequest, onDone: (done: number, total: number) => void = () => {}): Promise<Evaluation> {
    this.#onEvaluated = onDone;
    return this.call("evaluate", request);
  }

  recordAdvantages(k: number, advantages: ReadonlyMap<string, readonly Float32Array[]>): Promise<void> {
    return this.call("recordAdvantages", k, advantages);
  }

  flush(): Promise<void> {
    return this.call("flush");
  }

  stats(): Promise<Record<string, number>> {
    return this.call("stats");
  }

  /** Tells the actors to stop, closes sockets and journal, ends the thread. */
  async close(): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    if (this.broken === null) await this.call("close");
    await this.worker.terminate();
  }

  private call<M extends keyof DispatcherApi>(
    method: M,
    ...args: Parameters<DispatcherApi[M]>
  ): ReturnType<DispatcherApi[M]> {
    const result = new Promise<unknown>((resolve, reject) => {
      if (this.broken !== null) return reject(this.broken);
      const id = this.nextId++;
      this.calls.set(id, { resolve, reject });
      const message: ApiCall = { id, method, args };
      this.worker.postMessage(message);
    });
    return result as ReturnType<DispatcherApi[M]>;
  }

  private handle(message: ThreadMessage): void {
    switch (message.type) {
      case "result":
        this.take(message.id)?.resolve(message.value);
        break;
      case "failed":
        this.take(message.id)?.reject(fromThreadError(message.error));
        break;
      case "evaluated":
        this.#onEvaluated(message.done, message.total);
        break;
      case "fatal":
        this.fail(fromThreadError(message.error));
        break;
      case "listening":
    }
  }

  private take(id: number): Call | undefined {
    const call = this.calls.get(id);
    this.calls.delete(id);
    return call;
  }

  /** Nothing works any more: whoever waits, or calls later, is told the first reason. */
  private fail(error: Error): void {
    this.broken ??= error;
    for (const call of this.calls.values()) call.reject(this.broken);
    this.calls.clear();
  }
}

function fromThreadError({ message, stack, user }: ThreadError): Error {
  if (user) return new UserError(message);
  const error = new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}
