/**
 * Engines in threads of their own, for commands that need no learner: the same engine, graph and noise as in training.
 * A request goes to the engine with the fewest rows in hand; what it is answered does not depend on which that is.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { UserError } from "../errors.js";
import type { PolicyVersion } from "../model/weights.js";
import type { EngineOptions, GenerateRequest, GeneratedGroup, StreamedTokens } from "./engine-types.js";
import type { EngineThreadData, FromEngine, ToEngine } from "./engine-thread.js";
import type { ModelFiles } from "./local.js";

export interface PoolOptions {
  /** Number of engines. */
  readonly actors: number;
  /** ONNX Runtime threads of each; 0 = the cores, shared out. */
  readonly threads: number;
  readonly maxRows: number;
}

export interface GenerateHooks {
  readonly onGroup: (group: GeneratedGroup) => void;
  /** New tokens of requests that stream; `end` ends a completion where it is. */
  readonly onTokens?: (tokens: StreamedTokens, end: () => void) => void;
}

const SEGMENT_LENGTH = 8;

export class EnginePool {
  private readonly engines: readonly Worker[];
  /** Rejects when an engine fails or its thread ends. */
  private readonly failure: Promise<never>;
  private readonly maxRows: number;
  readonly version: PolicyVersion;

  private constructor(engines: readonly Worker[], failure: Promise<never>, maxRows: number, version: PolicyVersion) {
    this.engines = engines;
    this.failure = failure;
    this.maxRows = maxRows;
    this.version = version;
  }

  /** Starts the engines and gives them the model. @throws UserError when they cannot hold it */
  static async open(model: ModelFiles, { actors, threads, maxRows }: PoolOptions): Promise<EnginePool> {
    const each = threads || Math.max(1, Math.floor(availableParallelism() / actors));
    const options: EngineOptions = { threads: each, maxRows, segmentLength: SEGMENT_LENGTH };
    const { config, lora, baseFolder } = model;
    const workerData: EngineThreadData = {
      model: config,
      options,
      lora: lora === null ? null : { spec: lora, baseFolder },
    };
    const packed = model.published();
    const engines = Array.from(
      { length: actors },
      () => new Worker(new URL("./engine-thread.js", import.meta.url), { workerData }),
    );
    const failure = Promise.race(engines.map(failureOf));
    // of use to whoever waits for it; closing is no failure
    failure.catch(() => {});
    const versions = engines.map((engine) => {
      const version = new Promise<PolicyVersion>((resolve) => {
        engine.on("message", (message: FromEngine) => {
          if (message.type === "loaded") resolve(message.version);
        });
      });
      post(engine, { type: "load", packed, iteration: 0 });
      return Promise.race([version, failure]);
    });
    return new EnginePool(engines, failure, maxRows, (await Promise.all(versions))[0]!);
  }

  /** Answers all requests; groups come as they finish. */
  async generate(requests: readonly GenerateRequest[], { onGroup, onTokens }: GenerateHooks): Promise<void> {
    const waiting = requests.toReversed();
    let open = requests.length;
    if (open === 0) return;
    /** Rows that each engine has in hand or in its queue, which is kept filled for its next segment. */
    const inHand = this.engines.map(() => 0);
    const rowsOf = new Map(requests.map(({ requestId, groupSize }) => [requestId, groupSize]));
    const handOut = (): void => {
      for (let next = waiting.at(-1); next !== undefined; next = waiting.at(-1)) {
        const fewest = inHand.indexOf(Math.min(...inHand));
        if (inHand[fewest]! > 0 && inHand[fewest]! + next.groupSize > 2 * this.maxRows) return;
        inHand[fewest]! += next.groupSize;
        post(this.engines[fewest]!, { type: "submit", request: waiting.pop()! });
      }
    };
    const listeners: ((message: FromEngine) => void)[] = [];
    const answered = new Promise<void>((resolve, reject) => {
      for (const [i, engine] of this.engines.entries()) {
        const hear = (message: FromEngine): void => {
          if (message.type !== "stepped") return;
          try {
            for (const tokens of message.streamed) {
              const { requestId, completion } = tokens;
              onTokens?.(tokens, () => post(engine, { type: "cancel", requestId, completion }));
            }
            for (const group of message.groups) {
              inHand[i]! -= rowsOf.get(group.requestId)!;
              onGroup(group);
              if (--open === 0) resolve();
            }
            handOut();
          } catch (error) {
            reject(error);
          }
        };
        engine.on("message", hear);
        listeners.push(hear);
      }
    });
    handOut();
    try {
      await Promise.race([answered, this.failure]);
    } finally {
      this.engines.forEach((engine, i) => engine.off("message", listeners[i]!));
    }
  }

  /** Ends the threads, after the segment at hand. */
  async close(): Promise<void> {
    await Promise.all(
      this.engines.map((engine) => {
        const ended = new Promise((resolve) => engine.once("exit", resolve));
        post(engine, { type: "stop" });
        return ended;
      }),
    );
  }
}

function post(engine: Worker, message: ToEngine): void {
  engine.postMessage(message);
}

function failureOf(engine: Worker): Promise<never> {
  return new Promise((_, reject) => {
    engine.on("message", (message: FromEngine) => {
      if (message.type === "failed")
        reject(message.user ? new UserError(message.message) : new Error(`the engine failed: ${message.message}`));
    });
    engine.on("error", reject);
    engine.on("exit", () => reject(new Error("an engine's thread ended by itself")));
  });
}
