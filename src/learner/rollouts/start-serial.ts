/** Puts the source of `--serial` together: engine, rewards and journal in the learner's process. */
import { OrtEngine } from "../../engine/engine.js";
import type { RunConfig } from "../../config/schema.js";
import type { ModelConfig } from "../../model/config.js";
import { loadTokenizer } from "../../model/tokenizer.js";
import { loadRewards } from "../../tasks/rewards.js";
import { makeScorer } from "../../tasks/scorer.js";
import type { RolloutSource } from "./rollout-source.js";
import { SerialSource } from "./serial-source.js";
import { TaskSource, bookOptions } from "./task-source.js";

export interface SerialOptions {
  readonly runDir: string;
  readonly firstIteration: number;
  readonly shape: ModelConfig;
  readonly threads: number;
  readonly note: (message: string) => void;
}

export async function startSerialSource(run: RunConfig, options: SerialOptions): Promise<RolloutSource> {
  const { max_rows: maxRows, segment_length: segmentLength, device, dtype } = run.actors;
  const threads = Math.max(1, options.threads);
  const lora = run.lora.enabled ? { spec: run.lora, baseFolder: run.model.path } : null;
  const engine = await OrtEngine.create(options.shape, { threads, maxRows, segmentLength, device, dtype }, lora);
  const tokenizer = loadTokenizer(run.model.path, options.shape);
  const rewards = await loadRewards(run.reward, run.max_completion_length);
  const tasks = TaskSource.open(run);
  return new SerialSource({
    ...bookOptions(run, tasks),
    evalTasks: (request) => tasks.evalTasks(request),
    runDir: options.runDir,
    firstIteration: options.firstIteration,
    log: (_level, message, fields) => console.error(message, fields ?? ""),
    note: options.note,
    engine,
    maxRows,
    score: makeScorer(tokenizer, rewards, 1_000 * run.reward.timeout_seconds),
  });
}
