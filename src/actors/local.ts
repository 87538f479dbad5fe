/**
 * An engine in this process, for commands that need no learner: load a model folder, answer requests.
 * The same engine, graph and noise as in training.
 */
import { availableParallelism } from "node:os";
import { readModelConfig, type ModelConfig } from "../model/config.js";
import { loadPacked } from "../model/safetensors.js";
import { loadTokenizer, type Tokenizer } from "../model/tokenizer.js";
import type { GenerateRequest, GeneratedGroup } from "./engine-types.js";
import { OrtEngine } from "./engine.js";

export interface LocalModel {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly engine: OrtEngine;
}

/** @param threads of ONNX Runtime; 0 = all cores */
export async function openModel(folder: string, threads: number): Promise<LocalModel> {
  const config = readModelConfig(folder);
  const tokenizer = loadTokenizer(folder, config);
  const packed = loadPacked(folder, config);
  const engine = await OrtEngine.create(config, {
    threads: threads || availableParallelism(),
    maxRows: 64,
    segmentLength: 8,
  });
  await engine.load(packed, 0);
  return { config, tokenizer, engine };
}

/** Answers all requests; results in the order asked. `onDone` counts finished groups. */
export async function generateAll(
  engine: OrtEngine,
  requests: readonly GenerateRequest[],
  onDone: (done: number) => void = () => {},
): Promise<GeneratedGroup[]> {
  const results = new Map<string, GeneratedGroup>();
  for (const request of requests) engine.submit(request);
  while (engine.pending > 0) {
    for (const group of await engine.step()) results.set(group.requestId, group);
    onDone(results.size);
  }
  return requests.map((request) => results.get(request.requestId)!);
}
