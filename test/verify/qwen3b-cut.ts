/**
 * Qwen2.5-3B's shape cut to two layers, B = 8 completions of T = 256 tokens, on the CPU: memory of
 * a LoRA step, its numbers against torch's, and the float16 graph against the float32 one. Minutes
 * on two cores, so it is not among the tests:
 *
 *   npm run check:3b [-- --part learner|actor] [--folder DIR] [--threads N]
 *
 * torch's side is test/golden/qwen3b_cut.json, written by test/reference/qwen3b_cut_reference.py;
 * weights are formulas (bench/cut-model.ts). Each part is a process of its own. Exit code 1 when a
 * bound is missed.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Command, Option } from "commander";
import { cutAdapters, makeCut } from "../../bench/cut-model.js";
import { OrtEngine } from "../../src/engine/engine.js";
import { generateAll } from "../../src/engine/local.js";
import { guarded } from "../../src/entry.js";
import { UserError } from "../../src/errors.js";
import { startBackend } from "../../src/learner/backend/backend.js";
import { TrainableModel, baseFromFolder } from "../../src/learner/policy/model.js";
import { Updater } from "../../src/learner/algorithms/update.js";
import { readModelConfig } from "../../src/model/config.js";
import { loraLayout } from "../../src/model/lora.js";
import { cutBatch, cutRun, gapsOfStep, listGap, logprobsOfBatch, modes, readCutGolden } from "../support/cut-golden.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
/** Largest gap allowed, as a share of the largest value compared. */
const NUMBERS = 1e-3;
/** Largest gap of log-probabilities allowed, in nats. */
const FLOAT16 = 2e-2;

let missed = 0;

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0);
const scientific = (value: number): string => value.toExponential(1);

function report(what: string, found: number, bound: number, text = scientific): void {
  const kept = found < bound;
  if (!kept) missed++;
  console.log(`${kept ? "ok    " : "MISSED"} ${what}: ${text(found)}, bound ${text(bound)}`);
}

/** A line of /proc/self/status, in bytes. */
function memory(field: "VmRSS" | "VmHWM"): number {
  const kilobytes = new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  if (kilobytes === undefined) throw new UserError("expected Linux's /proc/self/status, found none with memory in it.");
  return Number(kilobytes) * 1024;
}

/**
 * Collects garbage, and gives the thread that returns array buffers to the system the time for it.
 */
async function collect(): Promise<void> {
  for (let i = 0; i < 2; i++) {
    globalThis.gc!();
    await setTimeout(500);
  }
}

/**
 * Peak of resident memory while `work` runs. The kernel's mark of the peak is set back first
 * (proc(5): clear_refs, 5).
 */
async function peakOf<T>(work: () => Promise<T>): Promise<{ result: T; peak: number }> {
  writeFileSync("/proc/self/clear_refs", "5");
  const result = await work();
  return { result, peak: memory("VmHWM") };
}

async function learner(folder: string, threads: number): Promise<void> {
  const golden = readCutGolden(root, "qwen3b_cut");
  const config = readModelConfig(folder);
  const { tf } = await startBackend("tensorflow", threads);
  const libraries = memory("VmRSS");
  const run = cutRun(root, golden, "recompute");
  const adapters = cutAdapters(config, loraLayout(config, run.lora));
  const model = new TrainableModel(tf, config, run, baseFromFolder(folder, config), adapters);
  const batch = cutBatch(golden);
  // What could have gone already must not pay for what comes.
  await collect();
  const [loaded, tensors] = [memory("VmRSS"), tf.memory().numBytes];
  const beside = loaded - libraries - tensors;
  console.log(`loaded: ${megabytes(tensors)} MB of tensors, ${megabytes(beside)} MB more than those and the libraries`);
  const { rewards, promptLengths } = golden.batch;
  const [B, T] = [rewards.flat().length, promptLengths[0]! + run.max_completion_length];
  const half = (B * T * config.vocabSize * 4) / 2;
  // No warm-up: the first step is the first thing this process computes.
  for (const [i, mode] of modes.entries()) {
    const ofMode = cutRun(root, golden, mode);
    const updater = new Updater({ tf, run: ofMode, model });
    const begin = performance.now();
    const { result, peak } = await peakOf(() => updater.update(batch, 0));
    const seconds = ((performance.now() - begin) / 1000).toFixed(0);
    const which = `${i === 0 ? "the first step" : "the next step"} (${seconds} s)`;
    report(`peak of ${which} over the loaded model, MB of resident memory`, peak - loaded, half, megabytes);
    const gaps = await gapsOfStep(updater, model, ofMode, result.metrics["loss"]!, golden[mode]);
    report(`old_logprobs ${mode}: loss, of torch's`, gaps.loss, NUMBERS);
    report(`old_logprobs ${mode}: norms of adapter gradients, of the largest norm`, gaps.gradientNorms, NUMBERS);
    report(
      `old_logprobs ${mode}: entries of adapter gradients, of each tensor's largest`,
      gaps.gradientEntries,
      NUMBERS,
    );
    updater.policy.optimizer.dispose();
  }
  const logprobs = await logprobsOfBatch({ tf, run, model }, batch);
  report("log-probabilities, of the largest", listGap(logprobs, golden.logprobs), NUMBERS);
}

async function actor(folder: string, threads: number): Promise<void> {
  const golden = readCutGolden(root, "qwen3b_cut");
  const config = readModelConfig(folder);
  const run = cutRun(root, golden, "recompute");
  const adapters = cutAdapters(config, loraLayout(config, run.lora));
  const batch = cutBatch(golden);
  const measured: Record<string, number[]> = {};
  for (const dtype of ["float32", "float16"] as const) {
    console.log(`${dtype} graph: loading, then ${golden.logprobs.length} tokens`);
    const options = { threads, maxRows: run.generation_batch_size, segmentLength: 64, dtype };
    const engine = await OrtEngine.create(config, options, { spec: run.lora, baseFolder: folder });
    await engine.load(adapters, 0);
    const requests = batch.groups.map(({ taskId, completions }, g) => ({
      requestId: taskId,
      promptIds: batch.tasks[g]!.promptIds,
      groupSize: completions.length,
      seed: 0n,
      sampling: { temperature: run.temperature, maxNewTokens: 1, stopIds: [] },
      forced: completions.map(({ ids }) => ids),
    }));
    const groups = await generateAll(engine, requests);
    measured[dtype] = groups.flatMap((group) => group.completions.flatMap(({ logprobs }) => [...logprobs]));
    await engine.dispose();
  }
  const [full, half] = [measured["float32"]!, measured["float16"]!];
  const gaps = half.map((value, i) => Math.abs(value - full[i]!));
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  report(
    `float16 graph against float32 graph, nats, largest of ${gaps.length} (mean ${mean.toExponential(1)})`,
    Math.max(...gaps),
    FLOAT16,
  );
  report("float32 graph against torch, of the largest log-probability", listGap(full, golden.logprobs), NUMBERS);
}

async function main(): Promise<number> {
  const options = new Command("check:3b")
    .description("Qwen2.5-3B's shape, two layers: memory, numbers and float16 on the CPU")
    .addOption(new Option("--part <name>", "one part alone; default both").choices(["learner", "actor"]))
    .option("--folder <dir>", "folder of the model, made when it is not there (default: a temporary one)")
    .option("--threads <n>", "threads of either runtime", Number, 2)
    .parse()
    .opts<{ part?: "learner" | "actor"; folder?: string; threads: number }>();
  if (options.part !== undefined && options.folder !== undefined && globalThis.gc !== undefined) {
    await { learner, actor }[options.part](options.folder, options.threads);
    return missed === 0 ? 0 : 1;
  }
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), "qwen3b-cut-"));
  try {
    console.log(`model: ${folder}`);
    makeCut(folder);
    const parts = options.part === undefined ? ["learner", "actor"] : [options.part];
    const failed = parts.filter((part) => {
      const args = ["--expose-gc", fileURLToPath(import.meta.url), "--part", part, "--folder", folder];
      return (
        spawnSync(process.execPath, [...args, "--threads", String(options.threads)], { stdio: "inherit" }).status !== 0
      );
    });
    return failed.length === 0 ? 0 : 1;
  } finally {
    if (options.folder === undefined) rmSync(folder, { recursive: true, force: true });
  }
}

process.exitCode = await guarded(main, false);
