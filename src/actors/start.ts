/** Puts an actor together: engine in its own thread, tokenizer and rewards here, sockets. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import pino from "pino";
import { logsFolder } from "../run/paths.js";
import type { RunConfig } from "../config/schema.js";
import { readModelConfig } from "../model/config.js";
import { layoutSize } from "../model/layout.js";
import { publishedLayout } from "../model/identity.js";
import { loadTokenizer } from "../model/tokenizer.js";
import { SILENCE_MS } from "../protocol/sockets.js";
import { loadRewards } from "../tasks/rewards.js";
import { makeScorer } from "../tasks/scorer.js";
import { Actor, type ActorOptions } from "./actor.js";
import { ENGINE_MS } from "./engine-watch.js";
import type { EngineThreadData } from "../engine/engine-thread.js";

export interface StartOptions extends Pick<ActorOptions, "index" | "addresses" | "token" | "silenceMs"> {
  readonly runDir: string;
  /** ONNX Runtime threads. */
  readonly threads: number;
}

/** @throws UserError for a model folder, tokenizer or reward function that cannot be used */
export async function startActor(config: RunConfig, options: StartOptions) {
  const { runDir, index, threads, addresses, silenceMs = SILENCE_MS } = options;
  const shape = readModelConfig(config.model.path);
  const tokenizer = loadTokenizer(config.model.path, shape);
  const rewards = await loadRewards(config.reward, config.max_completion_length);
  mkdirSync(logsFolder(runDir), { recursive: true });
  const file = join(logsFolder(runDir), `actor-${index}.jsonl`);
  const logger = pino({ base: { role: "actor", index } }, pino.destination({ dest: file, sync: true }));

  const { max_rows: maxRows, segment_length: segmentLength, device, dtype } = config.actors;
  const lora = config.lora.enabled ? config.lora : null;
  const workerData: EngineThreadData = {
    shape,
    options: { threads, maxRows, segmentLength, device, dtype },
    lora: lora === null ? null : { spec: lora, baseFolder: config.model.path },
  };
  const engine = new Worker(new URL("../engine/engine-thread.js", import.meta.url), { workerData });
  const actor = new Actor({
    addresses,
    token: options.token,
    index,
    capacity: maxRows,
    weightBytes: layoutSize(publishedLayout(shape, lora)) * 4,
    engine,
    score: makeScorer(tokenizer, rewards, 1_000 * config.reward.timeout_seconds),
    log: (level, message, fields = {}) => logger[level](fields, message),
    silenceMs,
    engineMs: ENGINE_MS[device],
  });
  const ended = new Promise((resolve) => engine.once("exit", resolve));
  engine.on("error", (error) => actor.fail(error));
  logger.info({ actor: actor.id }, "actor started");
  return {
    done: actor.done,
    /** Says bye and ends the engine's thread: a process must not exit under a running session. */
    async close(reason: string): Promise<void> {
      await actor.close(reason);
      engine.postMessage({ type: "stop" });
      await ended;
      logger.info({ actor: actor.id, reason }, "actor stopped");
    },
  };
}
