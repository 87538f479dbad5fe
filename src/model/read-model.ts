/** Reads a model that a command is given: a Hugging Face or PEFT folder, or a hub id. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../errors.js";
import { readModelConfig } from "./config.js";
import { readGenerationConfig } from "./generation-config.js";
import { resolveModelFolder } from "./hub.js";
import { layoutSize, weightLayout } from "./layout.js";
import { loadAdapter, loraLayout, readAdapterConfig } from "./lora.js";
import { loadPacked } from "./model-weights.js";
import { loadTokenizer } from "./tokenizer.js";

export type ModelFiles = ReturnType<typeof readModel>;

/** @param spec model or PEFT adapter folder, or hub id @throws UserError unless all files fit */
export function readModel(spec: string) {
  const folder = resolveModelFolder(spec);
  const adapter = existsSync(join(folder, "adapter_config.json")) ? readAdapterConfig(folder) : null;
  const adapterBase = adapter?.base == null ? null : resolveModelFolder(adapter.base);
  if (adapter !== null && (adapterBase === null || !existsSync(adapterBase)))
    throw new UserError(
      `${join(folder, "adapter_config.json")}: expected the base model's folder, or a downloaded model of the hub, in base_model_name_or_path, found ` +
        `${adapter.base ?? "nothing"}. Correct the path, or download the model.`,
    );
  /** The folder, or an adapter's base. */
  const baseFolder = adapterBase ?? folder;
  const shape = readModelConfig(baseFolder);
  // PEFT writes adapters without the tokenizer, a trainer with it; neither generation_config.json
  const having = (name: string): string => (existsSync(join(folder, name)) ? folder : baseFolder);
  /** Where the tokenizer is: the folder, or the base of an adapter that came without one. */
  const tokenizerFolder = having("tokenizer.json");
  const tokenizer = loadTokenizer(tokenizerFolder, shape);
  const generation = readGenerationConfig(having("generation_config.json"));
  /** Settings of an adapter folder; null for any other. */
  const lora = adapter?.lora ?? null;
  /** Reads what an engine loads: all weights, in memory that threads can share, or the adapters. */
  const published = (): Float32Array => {
    if (lora !== null) return loadAdapter(folder, loraLayout(shape, lora), lora);
    const bytes = new SharedArrayBuffer(4 * layoutSize(weightLayout(shape)));
    return loadPacked(folder, shape, new Float32Array(bytes));
  };
  return { folder, baseFolder, tokenizerFolder, shape, tokenizer, lora, generation, published };
}
