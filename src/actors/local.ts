/**
 * An engine in this process, for commands that need no learner: load a model folder, answer requests.
 * The same engine, graph and noise as in training.
 */
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { UserError } from "../errors.js";
import { type GenerationSettings, readGenerationConfig } from "../model/generation-config.js";
import { readModelConfig, type ModelConfig } from "../model/config.js";
import { resolveModelFolder } from "../model/hub.js";
import { layoutSize, weightLayout } from "../model/layout.js";
import { loadAdapter, loraLayout, readAdapterConfig, type LoraSpec } from "../model/lora.js";
import { loadPacked } from "../model/safetensors.js";
import { loadTokenizer, type Tokenizer } from "../model/tokenizer.js";
import type { GenerateRequest, GeneratedGroup } from "./engine-types.js";
import { OrtEngine } from "./engine.js";

/** What a model's folder holds. */
export interface ModelFiles {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  /** The folder, or an adapter's base. */
  readonly baseFolder: string;
  /** Of an adapter folder, else null. */
  readonly lora: LoraSpec | null;
  /** How the model's makers want it to be sampled. */
  readonly generation: GenerationSettings;
  /** Reads what an engine loads: all weights, in memory that threads can share, or the adapters. */
  readonly published: () => Float32Array;
}

export interface LocalModel {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly engine: OrtEngine;
}

/**
 * Reads a model folder, or a PEFT adapter folder (its base is where adapter_config.json says).
 * @param spec the folder, or the hub id of a downloaded model
 * @throws UserError when a file is missing, damaged or does not fit
 */
export function readModel(spec: string): ModelFiles {
  const folder = resolveModelFolder(spec);
  const adapter = existsSync(join(folder, "adapter_config.json")) ? readAdapterConfig(folder) : null;
  const adapterBase = adapter?.base == null ? null : resolveModelFolder(adapter.base);
  if (adapter !== null && (adapterBase === null || !existsSync(adapterBase)))
    throw new UserError(
      `${join(folder, "adapter_config.json")}: expected the base model's folder, or a downloaded model of the hub, in base_model_name_or_path, found ` +
        `${adapter.base ?? "nothing"}. Correct the path, or download the model.`,
    );
  const baseFolder = adapterBase ?? folder;
  const config = readModelConfig(baseFolder);
  // PEFT writes an adapter without the tokenizer, a trainer with it; neither with a generation_config.json
  const having = (name: string): string => (existsSync(join(folder, name)) ? folder : baseFolder);
  const tokenizer = loadTokenizer(having("tokenizer.json"), config);
  const generation = readGenerationConfig(having("generation_config.json"));
  const lora = adapter?.lora ?? null;
  const published = (): Float32Array => {
    if (lora !== null) return loadAdapter(folder, loraLayout(config, lora), lora);
    const bytes = new SharedArrayBuffer(4 * layoutSize(weightLayout(config)));
    return loadPacked(folder, config, new Float32Array(bytes));
  };
  return { config, tokenizer, baseFolder, lora, generation, published };
}

/**
 * Opens a model for use in this thread.
 * @param spec as in readModel
 * @param threads of ONNX Runtime; 0 = all cores
 */
export async function openModel(spec: string, threads: number): Promise<LocalModel> {
  const { config, tokenizer, baseFolder, lora, published } = readModel(spec);
  const options = { threads: threads || availableParallelism(), maxRows: 256, segmentLength: 8 };
  const engine = await OrtEngine.create(config, options, lora === null ? null : { spec: lora, baseFolder });
  await engine.load(published(), 0);
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
