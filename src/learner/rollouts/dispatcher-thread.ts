/** The learner's thread for sockets, leases, journal and weights. Never imports TensorFlow. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import pino from "pino";
import { logsFolder } from "../../run/paths.js";
import type { RunConfig } from "../../config/schema.js";
import { UserError, asUserError, messageOf } from "../../errors.js";
import { type LayoutEntry, layoutSize } from "../../model/layout.js";
import { type PolicyVersion, publishedHash } from "../../model/identity.js";
import { type Addresses, resolveAddresses } from "../../protocol/sockets.js";
import { sharedMemoryFolder } from "../../protocol/leftovers.js";
import { Dispatcher } from "./dispatcher.js";
import { Ledger } from "./ledger.js";
import type { Evaluation, EvaluationRequest, RolloutSource } from "./rollout-source.js";
import { newToken } from "./run-token.js";
import { TaskSource, bookOptions } from "./task-source.js";

export interface DispatcherData {
  readonly run: RunConfig;
  readonly runDir: string;
  /** Completed training iterations; the first `publish` must be of this iteration. */
  readonly firstIteration: number;
  /** What travels: the model's layout, or the adapters'. */
  readonly layout: readonly LayoutEntry[];
  /** Hash of the frozen base, part of every version's with LoRA; null without. */
  readonly baseSha256: string | null;
  /** Packed weights, used in turn: the main thread writes one while the other is served. */
  readonly buffers: readonly [SharedArrayBuffer, SharedArrayBuffer];
}

/** What the main thread may call. Maps and typed arrays are cloned on the way. */
export interface DispatcherApi extends Omit<RolloutSource, "publish" | "evaluate"> {
  publish(buffer: 0 | 1, iteration: number): Promise<PolicyVersion>;
  evaluate(request: EvaluationRequest): Promise<Evaluation>;
}

export interface ApiCall {
  readonly id: number;
  readonly method: keyof DispatcherApi;
  readonly args: readonly unknown[];
}

/** Errors lose their class between threads; `user` keeps what matters. */
export interface ThreadError {
  readonly message: string;
  readonly stack: string | undefined;
  readonly user: boolean;
}

export type ThreadMessage =
  | { readonly type: "listening"; readonly addresses: Addresses; readonly token: string }
  | { readonly type: "result"; readonly id: number; readonly value: unknown }
  | { readonly type: "failed"; readonly id: number; readonly error: ThreadError }
  | { readonly type: "evaluated"; readonly done: number; readonly total: number }
  | { readonly type: "note"; readonly message: string }
  | { readonly type: "fatal"; readonly error: ThreadError };

async function main(data: DispatcherData): Promise<void> {
  const { run, runDir, firstIteration, layout, buffers } = data;
  mkdirSync(logsFolder(runDir), { recursive: true });
  const logger = pino(
    { base: { role: "dispatcher" } },
    pino.destination({ dest: join(logsFolder(runDir), "dispatcher.jsonl"), sync: true }),
  );
  const log = (level: "info" | "warn" | "error", message: string, fields = {}) => logger[level](fields, message);
  const onFatal = (error: unknown) => {
    log("error", messageOf(error));
    post({ type: "fatal", error: toThreadError(error) });
  };

  const source = TaskSource.open(run);
  const ledger = new Ledger({
    ...bookOptions(run, source),
    firstIteration,
    runDir,
    log,
    note: (message) => post({ type: "note", message }),
    onFatal,
  });
  const { addresses, cleanup: removeSockets } = resolveAddresses(run.transport.address);
  const shared = run.transport.shared_memory ? sharedMemoryFolder() : null;
  const cleanup = () => {
    removeSockets();
    shared?.cleanup();
  };
  process.on("exit", cleanup);
  const token = newToken();
  const starting = Dispatcher.start({
    addresses,
    token,
    folder: shared?.folder ?? null,
    minCapacity: run.num_generations,
    ledger,
  });
  // a port in use leaves nothing behind
  const dispatcher = await starting.catch((error: unknown) => {
    cleanup();
    throw error;
  });

  const api: DispatcherApi = {
    async publish(buffer, iteration) {
      const packed = new Float32Array(buffers[buffer], 0, layoutSize(layout));
      const version = { iteration, sha256: publishedHash(packed, layout, data.baseSha256) };
      dispatcher.publish(packed, version);
      log("info", "policy published", version);
      return version;
    },
    batch: (k) => dispatcher.batch(k),
    async evaluate(request) {
      const tasks = source.evalTasks(request);
      const report = (done: number) => post({ type: "evaluated", done, total: tasks.length });
      report(0);
      return { tasks, groups: await dispatcher.evaluate(tasks, report) };
    },
    recordAdvantages: async (k, advantages) => ledger.recordAdvantages(k, advantages),
    flush: () => ledger.flush(),
    stats: async () => dispatcher.stats(),
    async close() {
      try {
        await dispatcher.close("the run is over");
        await ledger.close();
      } finally {
        cleanup();
      }
    },
  };
  parentPort!.on("message", ({ id, method, args }: ApiCall) => {
    const call = api[method] as (...args: readonly unknown[]) => Promise<unknown>;
    call(...args).then(
      (value) => post({ type: "result", id, value }),
      (error: unknown) => post({ type: "failed", id, error: toThreadError(error) }),
    );
  });
  post({ type: "listening", addresses, token });
}

function post(message: ThreadMessage): void {
  parentPort!.postMessage(message);
}

function toThreadError(thrown: unknown): ThreadError {
  const error = asUserError(thrown);
  const stack = error instanceof Error ? error.stack : undefined;
  return { message: messageOf(error), stack, user: error instanceof UserError };
}

main(workerData as DispatcherData).catch((error: unknown) => post({ type: "fatal", error: toThreadError(error) }));
