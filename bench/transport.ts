/** (d) Completions/s into the learner, its journal included. No peer has one. */
import { fork } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Dispatcher } from "../src/learner/rollouts/dispatcher.js";
import { Ledger } from "../src/learner/rollouts/ledger.js";
import type { TaskBookOptions } from "../src/learner/rollouts/task-book.js";
import type { Task } from "../src/protocol/messages.js";
import { taskSeed } from "../src/protocol/seeds.js";
import { resolveAddresses, type Addresses } from "../src/protocol/sockets.js";
import type { BenchContext, BenchResult } from "./bench.js";
import { interleave } from "./measure.js";

export const TOKEN = "bench";
const GROUP_SIZE = 8;
const TOKENS = 128;
const GROUPS_PER_BATCH = 64;
const BATCHES_PER_REPEAT = 10;

export async function benchTransport({ quick, progress }: BenchContext): Promise<BenchResult> {
  const repeats = quick ? 1 : 5;
  const measured = await withLearner(
    (repeats + 1) * BATCHES_PER_REPEAT,
    null,
    async (dispatcher, { work }, folder, ledger) => {
      const script = fileURLToPath(new URL("./feeder.js", import.meta.url));
      const rows = GROUPS_PER_BATCH * GROUP_SIZE;
      const feeder = fork(script, [work, TOKEN, String(TOKENS), String(rows)], { cwd: folder });
      try {
        return await interleave(
          async (repeat) => {
            const begin = performance.now();
            const first = (repeat + 1) * BATCHES_PER_REPEAT;
            for (let k = first; k < first + BATCHES_PER_REPEAT; k++) {
              const packed = Float32Array.of(k);
              const sha256 = createHash("sha256").update(packed).digest("hex");
              dispatcher.publish(packed, { iteration: k, sha256 });
              await dispatcher.batch(k);
            }
            await ledger.flush();
            return (1_000 * BATCHES_PER_REPEAT * rows) / (performance.now() - begin);
          },
          {},
          repeats,
        );
      } finally {
        feeder.disconnect();
      }
    },
  );
  const name = `groups of ${GROUP_SIZE} × ${TOKENS} tokens`;
  progress(name);
  return {
    title: "Trajectories into the learner's journal",
    unit: "completions/s",
    better: "higher",
    peerNames: [],
    cases: [
      { name, settings: { groupSize: GROUP_SIZE, tokens: TOKENS, groupsPerBatch: GROUPS_PER_BATCH }, ...measured },
    ],
    notes: [
      "One process answers tasks at once over ipc; the dispatcher checks each group, writes it to the journal and acknowledges it; one fsync at the end of each measurement besides those of every second.",
    ],
  };
}

/**
 * A dispatcher with sockets and a journal of its own.
 * @param maxBatches training batches it may open
 * @param weightsFolder in shared memory, for weights as a file; null: they travel in chunks
 */
export async function withLearner<T>(
  maxBatches: number,
  weightsFolder: string | null,
  use: (dispatcher: Dispatcher, addresses: Addresses, folder: string, ledger: Ledger) => Promise<T>,
): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "frl-bench-"));
  const { addresses, cleanup } = resolveAddresses("ipc");
  let fail: (error: unknown) => void = () => {};
  const failed = new Promise<never>((_, reject) => (fail = reject));
  const log = () => {};
  const rules = { vocabSize: 512, rewardNames: ["correctness"] };
  const ledger = new Ledger({
    ...book(maxBatches),
    rules,
    firstIteration: 0,
    runDir: folder,
    log,
    note: log,
    onFatal: fail,
  });
  const dispatcher = await Dispatcher.start({ addresses, token: TOKEN, folder: weightsFolder, minCapacity: 1, ledger });
  try {
    return await Promise.race([use(dispatcher, addresses, folder, ledger), failed]);
  } finally {
    await dispatcher.close("measured");
    await ledger.close();
    cleanup();
    rmSync(folder, { recursive: true, force: true });
  }
}

function book(maxBatches: number): TaskBookOptions {
  return {
    taskAt: (batch, slot): Task => ({
      taskId: `b${batch}-${slot}`,
      kind: "train",
      batch,
      promptIds: Int32Array.from({ length: 64 }, (_, t) => t),
      groupSize: GROUP_SIZE,
      seed: taskSeed(0, `b${batch}-${slot}`),
      minIteration: batch,
      sampling: { temperature: 1, maxNewTokens: TOKENS, stopIds: [] },
      problem: { question: "", answer: "#### 0" },
    }),
    groupsPerBatch: GROUPS_PER_BATCH,
    maxBatches,
    maxStaleness: 0,
    maxReplacements: 0,
    rewardsEqual: () => false,
    leaseMs: 60_000,
  };
}
