/** Saves a model as an ordinary Hugging Face folder that `transformers` loads unchanged. */
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.js";
import { readJson, writeJson } from "../files.js";
import type { ModelConfig } from "./config.js";
import { layoutSize, tensorsIn, weightLayout } from "./layout.js";
import { writeSafetensors } from "./safetensors/write.js";

export const requiredFiles = ["tokenizer.json", "tokenizer_config.json"];
export const optionalFiles = [
  "generation_config.json",
  "chat_template.jinja",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
];

/**
 * Writes float32 config, weights and tokenizer; a tied model without `lm_head.weight`.
 * @param target may be `sourceFolder` itself @param packed in `weightLayout(shape)` order
 * @throws UserError when the source lacks a tokenizer file or has no readable config.json
 */
export function saveModelFolder(target: string, sourceFolder: string, shape: ModelConfig, packed: Float32Array): void {
  const layout = weightLayout(shape);
  if (packed.length !== layoutSize(layout))
    throw new Error(`${packed.length} packed values for a model of ${layoutSize(layout)}`);
  mkdirSync(target, { recursive: true });
  copyTokenizerFiles(target, sourceFolder);
  writeConfig(target, sourceFolder, "float32");
  writeSafetensors(join(target, "model.safetensors"), tensorsIn(packed, layout));
}

/** Writes the source's `config.json` with torch's name for the stored type, such as "bfloat16". */
export function writeConfig(target: string, sourceFolder: string, dtype: string): void {
  const sourceConfig = join(sourceFolder, "config.json");
  const json = readJson(sourceConfig, z.looseObject({}), "", "a Hugging Face model config");
  // transformers 5 reads dtype, older releases torch_dtype.
  writeJson(join(target, "config.json"), { ...json, dtype, torch_dtype: dtype });
}

/** Copies the tokenizer's and generation files, which an adapter's folder needs too. */
export function copyTokenizerFiles(target: string, sourceFolder: string): void {
  if (resolve(target) === resolve(sourceFolder)) return;
  for (const name of [...requiredFiles, ...optionalFiles]) {
    const source = join(sourceFolder, name);
    if (existsSync(source)) copyFileSync(source, join(target, name));
    else if (requiredFiles.includes(name))
      throw new UserError(
        `${source}: expected the model's tokenizer, found nothing. Add the file to the model folder.`,
      );
  }
}
