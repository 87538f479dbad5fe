/**
 * An engine in this process, for commands that need no learner: load a model folder, answer requests.
 * The same engine, graph and noise as in training.
 */
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { UserError } from "../errors.js";
import { readModelConfig, type ModelConfig } from "../model/config.js";
import { resolveModelFolder } from "../model/hub.js";
import { loadAdapter, loraLayout, readAdapterConfig } from "../model/lora.js";
import { loadPacked } from "../model/safetensors.js";
import { loadTokenizer, type Tokenizer } from "../model/tokenizer.js";
import type { GenerateRequest, GeneratedGroup } from "./engine-types.js";
import { OrtEngine } from "./engine.js";

export interface LocalModel {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly engine: OrtEngine;
}

/**
 * Opens a model folder, or a PEFT adapter folder (its base is where adapter_config.json says).
 * @param spec the folder, or the hub id of a downloaded model
 * @param threads of ONNX Runtime; 0 = all cores
 * @throws UserError when a file is missing, damaged or does not fit
 */
export async function openModel(spec: string, threads: number): Promise<LocalModel> {
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
  const tokenizer = loadTokenizer(folder, config);
  const options = { threads: threads || availableParallelism(), maxRows: 256, segmentLength: 8 };
  const lora = adapter === null ? null : { spec: adapter.lora, baseFolder };
  const engine = await OrtEngine.create(config, options, lora);
  const published =
    adapter === null ? loadPacked(folder, config) : loadAdapter(folder, loraLayout(config, adapter.lora), adapter.lora);
  await engine.load(published, 0);
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
