/** An engine behind a message port, in a thread of its own: `session.run` blocks its thread. */
import { setImmediate as nextTurn } from "node:timers/promises";
import type { MessagePort } from "node:worker_threads";
import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { UserError, messageOf } from "../errors.js";
import type { ModelConfig } from "../model/config.js";
import type { PolicyVersion } from "../model/identity.js";
import type { Engine, EngineOptions, GenerateRequest, GeneratedGroup, StreamedTokens } from "./engine-types.js";
import type { AdaptersOnBase } from "./engine-types.js";

export type ToEngine =
  /** Only while nothing is in flight. */
  | { readonly type: "load"; readonly packed: Float32Array; readonly iteration: number }
  | { readonly type: "submit"; readonly request: GenerateRequest }
  | { readonly type: "cancel"; readonly requestId: string; readonly completion?: number }
  /** After the segment at hand, drop what is in flight and end the thread. */
  | { readonly type: "stop" };

export type FromEngine =
  | { readonly type: "loaded"; readonly version: PolicyVersion }
  /** After each segment: how many so far, groups that finished, tokens of requests that stream. */
  | {
      readonly type: "stepped";
      readonly steps: number;
      readonly groups: readonly GeneratedGroup[];
      readonly streamed: readonly StreamedTokens[];
    }
  | { readonly type: "failed"; readonly message: string; readonly user: boolean };

export interface EngineThreadData {
  readonly shape: ModelConfig;
  readonly options: EngineOptions;
  /** Adapters arrive instead of whole weights; the base is read from the model's folder. */
  readonly lora: AdaptersOnBase | null;
}

export function serveEngine(port: Pick<MessagePort, "postMessage" | "on" | "close">, engine: Engine): void {
  const state = { running: false, stopping: false };
  let steps = 0;
  const post = (message: FromEngine) => port.postMessage(message);
  const fail = (error: unknown) => post(failed(error));
  const run = async () => {
    state.running = true;
    while (engine.pending > 0 && !state.stopping) {
      const groups = await engine.step();
      post({ type: "stepped", steps: ++steps, groups, streamed: engine.streamed() });
      // Lets submitted requests in, so that they join the next segment.
      await nextTurn();
    }
    state.running = false;
    if (state.stopping) await end();
  };
  const end = async () => {
    await engine.dispose();
    port.close();
  };
  const load = async (packed: Float32Array, iteration: number) =>
    post({ type: "loaded", version: await engine.load(packed, iteration) });
  port.on("message", (message: ToEngine) => {
    try {
      if (message.type === "stop") {
        state.stopping = true;
        if (!state.running) end().catch(fail);
        return;
      }
      if (message.type === "load") return void load(message.packed, message.iteration).catch(fail);
      if (message.type === "cancel") return engine.cancel(message.requestId, message.completion);
      engine.submit(message.request);
      if (!state.running) run().catch(fail);
    } catch (error) {
      fail(error);
    }
  });
}

function failed(error: unknown): FromEngine {
  return { type: "failed", message: messageOf(error), user: error instanceof UserError };
}

async function main({ shape, options, lora }: EngineThreadData): Promise<void> {
  const { OrtEngine } = await import("./engine.js");
  serveEngine(parentPort!, await OrtEngine.create(shape, options, lora));
}

if (!isMainThread && parentPort !== null)
  main(workerData as EngineThreadData).catch((error: unknown) => parentPort!.postMessage(failed(error)));
