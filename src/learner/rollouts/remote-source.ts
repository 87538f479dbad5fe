/** Rollouts of a normal run: actors over ZeroMQ, reached through the dispatcher thread. */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { UserError } from "../../errors.js";
import { layoutSize } from "../../model/layout.js";
import type { PolicyVersion } from "../../model/identity.js";
import type { Addresses } from "../../protocol/sockets.js";
import type { ApiCall, DispatcherApi, DispatcherData, ThreadError, ThreadMessage } from "./dispatcher-thread.js";
import type { Evaluation, EvaluationRequest, RolloutSource, TrainingBatch } from "./rollout-source.js";

export interface RemoteSourceOptions extends Omit<DispatcherData, "buffers"> {
  /** Told of what went wrong and was dealt with. */
  readonly onNote?: (message: string) => void;
}

/** A thread that does not close its sockets in this time is ended all the same. */
const CLOSE_MS = 5_000;

type Listening = Extract<ThreadMessage, { type: "listening" }>;

interface Call {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class RemoteSource implements RolloutSource {
  /** Where actors connect. */
  readonly addresses: Addresses;
  /** What they have to know. */
  readonly token: string;
  readonly #worker: Worker;
  readonly #buffers: DispatcherData["buffers"];
  readonly #calls = new Map<number, Call>();
  #nextId = 0;
  #nextBuffer: 0 | 1 = 0;
  #onEvaluated: (done: number, total: number) => void = () => {};
  #broken: Error | null = null;
  #closing = false;
  #hasExited = false;
  readonly #exit: Promise<unknown>;
  readonly #onNote: (message: string) => void;

  private constructor(
    worker: Worker,
    buffers: DispatcherData["buffers"],
    { addresses, token }: Listening,
    onNote: (message: string) => void,
  ) {
    this.#onNote = onNote;
    this.#worker = worker;
    this.#buffers = buffers;
    this.addresses = addresses;
    this.token = token;
    worker.on("message", (message: ThreadMessage) => this.#handle(message));
    worker.on("error", (error) => this.#fail(error));
    this.#exit = once(worker, "exit");
    worker.on("exit", (code) => {
      this.#hasExited = true;
      this.#fail(new Error(`the dispatcher thread ended with code ${code}`));
    });
  }

  /** Binds the sockets. @throws UserError for a used port, a bad data set or tokenizer */
  static async start(options: RemoteSourceOptions): Promise<RemoteSource> {
    const bytes = layoutSize(options.layout) * 4;
    const buffers = [new SharedArrayBuffer(bytes), new SharedArrayBuffer(bytes)] as const;
    const { onNote = () => {}, ...data } = options;
    const workerData: DispatcherData = { ...data, buffers };
    const worker = new Worker(new URL("./dispatcher-thread.js", import.meta.url), { workerData });
    try {
      const [first] = (await once(worker, "message")) as [ThreadMessage];
      if (first.type === "fatal") throw fromThreadError(first.error);
      if (first.type !== "listening")
        throw new Error(`expected the dispatcher thread's addresses, found ${first.type}`);
      return new RemoteSource(worker, buffers, first, onNote);
    } catch (error) {
      await worker.terminate();
      throw error;
    }
  }

  async publish(packed: Float32Array, iteration: number): Promise<PolicyVersion> {
    const buffer = this.#nextBuffer;
    this.#nextBuffer = buffer === 0 ? 1 : 0;
    new Float32Array(this.#buffers[buffer]).set(packed);
    return this.#call("publish", buffer, iteration);
  }

  batch(k: number): Promise<TrainingBatch> {
    return this.#call("batch", k);
  }

  evaluate(request: EvaluationRequest, onDone: (done: number, total: number) => void = () => {}): Promise<Evaluation> {
    this.#onEvaluated = onDone;
    return this.#call("evaluate", request);
  }

  recordAdvantages(k: number, advantages: ReadonlyMap<string, readonly Float32Array[]>): Promise<void> {
    return this.#call("recordAdvantages", k, advantages);
  }

  flush(): Promise<void> {
    return this.#call("flush");
  }

  stats(): Promise<Record<string, number>> {
    return this.#call("stats");
  }

  /**
   * Tells the actors to stop, closes sockets and journal, ends the thread. A failed thread closes
   * its own sockets: to end it while one receives would abort the process and lose the message.
   */
  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    if (!this.#hasExited) {
      const closed = this.#post("close");
      closed.catch(() => {});
      await Promise.race([closed, this.#exit, sleep(CLOSE_MS, undefined, { ref: false })]);
    }
    await this.#worker.terminate();
  }

  #call<M extends keyof DispatcherApi>(method: M, ...args: Parameters<DispatcherApi[M]>): ReturnType<DispatcherApi[M]> {
    if (this.#broken !== null) return Promise.reject(this.#broken) as ReturnType<DispatcherApi[M]>;
    return this.#post(method, ...args);
  }

  #post<M extends keyof DispatcherApi>(method: M, ...args: Parameters<DispatcherApi[M]>): ReturnType<DispatcherApi[M]> {
    const result = new Promise<unknown>((resolve, reject) => {
      const id = this.#nextId++;
      this.#calls.set(id, { resolve, reject });
      const message: ApiCall = { id, method, args };
      this.#worker.postMessage(message);
    });
    return result as ReturnType<DispatcherApi[M]>;
  }

  #handle(message: ThreadMessage): void {
    switch (message.type) {
      case "result":
        this.#take(message.id)?.resolve(message.value);
        break;
      case "failed":
        this.#take(message.id)?.reject(fromThreadError(message.error));
        break;
      case "evaluated":
        this.#onEvaluated(message.done, message.total);
        break;
      case "note":
        this.#onNote(message.message);
        break;
      case "fatal":
        this.#fail(fromThreadError(message.error));
        break;
      case "listening":
    }
  }

  #take(id: number): Call | undefined {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    return call;
  }

  /** Nothing works any more: whoever waits, or calls later, is told the first reason. */
  #fail(error: Error): void {
    this.#broken ??= error;
    for (const call of this.#calls.values()) call.reject(this.#broken);
    this.#calls.clear();
  }
}

function fromThreadError({ message, stack, user }: ThreadError): Error {
  if (user) return new UserError(message);
  const error = new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}
