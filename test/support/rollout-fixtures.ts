/**
 * Small stand-ins for tests of the rollout path: tasks, groups, a deterministic engine, actors over
 * real sockets.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import { afterEach } from "vitest";
import { Actor, type ActorOptions } from "../../src/actors/actor.js";
import { serveEngine } from "../../src/engine/engine-thread.js";
import type { Engine, GenerateRequest, GeneratedGroup } from "../../src/engine/engine-types.js";
import { Dispatcher } from "../../src/learner/rollouts/dispatcher.js";
import type { DispatcherOptions } from "../../src/learner/rollouts/dispatcher.js";
import { Ledger } from "../../src/learner/rollouts/ledger.js";
import type { LedgerOptions } from "../../src/learner/rollouts/ledger.js";
import { layoutSize } from "../../src/model/layout.js";
import type { PolicyVersion } from "../../src/model/identity.js";
import { hashPacked } from "../../src/model/identity.js";
import type { Addresses } from "../../src/protocol/sockets.js";
import { resolveAddresses } from "../../src/protocol/sockets.js";

import { generate, layout, makeTask, scored } from "./tasks.js";

export { answer, layout, makeTask, scored, weights } from "./tasks.js";

/** Token of every run in tests. */
export const TOKEN = "token of the run";

/** An engine without a model. `speed` requests finish in a step; 0 = it hangs. */
export class FakeEngine implements Engine {
  version: PolicyVersion = { iteration: -1, sha256: "" };
  readonly loads: PolicyVersion[] = [];
  speed = Infinity;
  #queue: GenerateRequest[] = [];

  get pending(): number {
    return this.#queue.length;
  }

  load(packed: Float32Array, iteration: number): PolicyVersion {
    if (this.#queue.length > 0) throw new Error("weights changed under rows in flight");
    this.version = { iteration, sha256: hashPacked(packed, layout) };
    this.loads.push(this.version);
    return this.version;
  }

  submit(request: GenerateRequest): void {
    this.#queue.push(request);
  }

  cancel(requestId: string): void {
    this.#queue = this.#queue.filter((request) => request.requestId !== requestId);
  }

  streamed(): [] {
    return [];
  }

  async step(): Promise<GeneratedGroup[]> {
    await new Promise((resolve) => setTimeout(resolve, 1));
    return this.#queue.splice(0, this.speed).map((request) => generate(request, this.version));
  }

  async dispose(): Promise<void> {}
}

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});
/** Runs after the test, last registered first. */
export function later(cleanup: () => unknown): void {
  cleanups.push(cleanup);
}

export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "frl-test-"));
  later(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export function ledgerOptions(fields: Partial<LedgerOptions> = {}): LedgerOptions {
  return {
    taskAt: (batch, slot, replacement) =>
      makeTask(`b${batch}-${slot}${replacement === 0 ? "" : `-r${replacement}`}`, {
        batch,
        minIteration: Math.max(0, batch - (fields.maxStaleness ?? 1)),
      }),
    groupsPerBatch: 4,
    maxBatches: 100,
    maxStaleness: 1,
    maxReplacements: 0,
    rewardsEqual: (group) => group.completions.every((c) => c.rewards["correctness"] === 1),
    leaseMs: 60_000,
    firstIteration: 0,
    rules: { vocabSize: 100, rewardNames: ["correctness"] },
    runDir: fields.runDir ?? temporaryDirectory(),
    log: () => {},
    note: () => {},
    onFatal: (error) => {
      throw error;
    },
    ...fields,
  };
}

/** A dispatcher on sockets of its own, with fast heartbeats. */
export async function startDispatcher(
  ledgerFields: Partial<LedgerOptions> = {},
  fields: Partial<DispatcherOptions> = {},
): Promise<{ dispatcher: Dispatcher; ledger: Ledger; addresses: Addresses }> {
  const { addresses, cleanup } = resolveAddresses("ipc");
  later(cleanup);
  const ledger = new Ledger(ledgerOptions(ledgerFields));
  const dispatcher = await Dispatcher.start({
    addresses,
    token: TOKEN,
    chunkBytes: 512,
    minCapacity: 2,
    ledger,
    heartbeatMs: 20,
    silenceMs: 500,
    ...fields,
  });
  later(async () => {
    await dispatcher.close("test over");
    await ledger.close();
  });
  return { dispatcher, ledger, addresses };
}

/** A whole actor in this process around a fake engine. */
export function startActor(
  addresses: Addresses,
  engine: FakeEngine = new FakeEngine(),
  fields: Partial<ActorOptions> = {},
): { actor: Actor; engine: FakeEngine } {
  const { port1, port2 } = new MessageChannel();
  serveEngine(port1, engine);
  const actor = new Actor({
    addresses,
    token: TOKEN,
    index: 0,
    capacity: 4,
    weightBytes: layoutSize(layout) * 4,
    engine: port2,
    score: async (task, generated, actorId) => scored(task.taskId, generated, actorId),
    log: () => {},
    heartbeatMs: 20,
    silenceMs: 2_000,
    ...fields,
  });
  actor.done.catch(() => {});
  later(async () => {
    await actor.close("test over");
    port1.close();
  });
  return { actor, engine };
}

/** Waits until `condition` holds; the test's own timeout is the limit. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}
