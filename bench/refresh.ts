/**
 * (d) How soon an idle actor decodes with new weights: the starter's, SmolLM2-135M's, and LoRA
 * adapters of the latter.
 */
import { fork } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { runConfigSchema } from "../src/config/schema.js";
import { threadEnv } from "../src/launcher/threads.js";
import { readModelConfig } from "../src/model/config.js";
import { TOKEN_VARIABLE } from "../src/protocol/progress.js";
import { layoutSize, weightLayout } from "../src/model/layout.js";
import { publishedHash, publishedLayout, hashPacked } from "../src/model/identity.js";
import { loadPacked } from "../src/model/model-weights.js";
import { taskSeed } from "../src/protocol/seeds.js";
import { sharedMemoryFolder } from "../src/protocol/leftovers.js";
import type { BenchContext, BenchResult, CaseResult } from "./bench.js";
import { interleave } from "./measure.js";
import { starterModel } from "./models.js";
import { repositoryFile } from "./side.js";
import { CHUNK_BYTES } from "../src/learner/rollouts/weight-server.js";
import { TOKEN, withLearner } from "./transport.js";

export async function benchRefresh({ smollm2, quick, progress }: BenchContext): Promise<BenchResult> {
  const wanted = [
    { name: "starter model, all weights", model: starterModel, lora: false, repeats: 21, file: true },
    ...(smollm2 === null
      ? []
      : [
          { name: "SmolLM2-135M, LoRA", model: smollm2, lora: true, repeats: 11, file: true },
          { name: "SmolLM2-135M, all weights", model: smollm2, lora: false, repeats: 7, file: true },
          { name: "SmolLM2-135M, all weights", model: smollm2, lora: false, repeats: 7, file: false },
        ]),
  ];
  const cases: CaseResult[] = [];
  const shared = sharedMemoryFolder();
  try {
    for (const { name: what, model, lora, repeats, file } of wanted) {
      const folder = file ? (shared?.folder ?? null) : null;
      const name = `${what}, ${folder === null ? "chunks over ipc" : "file in shared memory"}, threads: 1`;
      cases.push({ name, ...(await refresh(model, lora, folder, quick ? 2 : repeats)) });
      progress(name);
    }
  } finally {
    shared?.cleanup();
  }
  return {
    title: "Weight refresh of an idle actor",
    unit: "ms",
    better: "lower",
    peerNames: [],
    cases,
    notes: [
      "From publish() to the answer of a task of one token that only the new weights may answer: hash, transfer, copy (LoRA: merge), hash, one decode step, way back. An upper bound of the refresh alone.",
      ...(smollm2 === null ? ["SmolLM2-135M is not there: skipped."] : []),
    ],
  };
}

/** @param weightsFolder for weights as a file; null: they travel in chunks */
async function refresh(
  model: string,
  loraEnabled: boolean,
  weightsFolder: string | null,
  repeats: number,
): Promise<Omit<CaseResult, "name">> {
  const run = runConfigSchema.parse({ model: { path: model }, lora: { enabled: loraEnabled } });
  const config = readModelConfig(model);
  const base = loadPacked(model, config);
  const layout = publishedLayout(config, loraEnabled ? run.lora : null);
  const baseSha256 = loraEnabled ? hashPacked(base, weightLayout(config)) : null;
  // Two buffers in turn: one is served while the next is written.
  const buffers = loraEnabled
    ? [new Float32Array(layoutSize(layout)), new Float32Array(layoutSize(layout))]
    : [base, base.slice()];
  // One token, so that no prompt has to be computed before it.
  const promptIds = Int32Array.of(1);
  const measured = await withLearner(0, weightsFolder, async (dispatcher, { work, weights }, folder) => {
    const configFile = join(folder, "config.json");
    writeFileSync(configFile, JSON.stringify(run));
    const args = ["--config", configFile, "--work", work, "--weights", weights, "--threads", "1"];
    const actor = fork(repositoryFile("dist/actors/main.js"), args, {
      env: { ...process.env, ...threadEnv(1), [TOKEN_VARIABLE]: TOKEN },
    });
    const ended = new Promise((resolve) => actor.once("exit", resolve));
    try {
      return await interleave(
        async (repeat) => {
          const packed = buffers[(repeat + 1) % 2]!;
          packed[0]! += 1e-6 * (repeat + 2); // another policy each time
          const iteration = repeat + 1;
          const taskId = `refresh-${iteration}`;
          const begin = performance.now();
          dispatcher.publish(packed, { iteration, sha256: publishedHash(packed, layout, baseSha256) });
          const sampling = { temperature: 1, maxNewTokens: 1, stopIds: [] };
          const problem = { question: "", answer: "#### 0" };
          const seed = taskSeed(0, taskId);
          const common = { kind: "eval", batch: iteration, groupSize: 1, minIteration: iteration } as const;
          await dispatcher.evaluate([{ taskId, promptIds, seed, sampling, problem, ...common }], () => {});
          return performance.now() - begin;
        },
        {},
        repeats,
      );
    } finally {
      actor.send({ type: "stop" });
      await ended;
    }
  });
  const settings = { bytes: 4 * layoutSize(layout), chunkBytes: CHUNK_BYTES, lora: String(loraEnabled) };
  return { settings, ...measured };
}
