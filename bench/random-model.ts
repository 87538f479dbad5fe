/**
 * Models of chosen sizes with random weights, as Hugging Face folders with the starter's tokenizer.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runConfigSchema } from "../src/config/schema.js";
import { initialWeights } from "../src/learner/supervised.js";
import { parseModelConfig, readModelConfig } from "../src/model/config.js";
import { copyTokenizerFiles, saveModelFolder } from "../src/model/folder.js";
import { layoutSize, weightLayout } from "../src/model/layout.js";
import { loraLayout, saveAdapterFolder } from "../src/model/lora.js";
import { mulberry32 } from "../src/math/random.js";
import { loadTokenizer } from "../src/model/tokenizer.js";
import { starterModel } from "./models.js";

const shapes = {
  "10M": { hidden_size: 384, intermediate_size: 1_152, num_hidden_layers: 6, num_attention_heads: 6 },
  "45M": { hidden_size: 576, intermediate_size: 1_728, num_hidden_layers: 12, num_attention_heads: 9 },
} as const;

/** Scale of the stop tokens' rows of the LM head. */
const NEVER = 100;

/**
 * Writes a model whose stop tokens are never sampled, so that every completion has full length on
 * both sides without a switch on either. The first hidden unit is 1 in every embedding, and no
 * layer writes to it. The (untied) LM head's rows of the stop tokens see that unit alone, with a
 * large negative weight.
 */
export function writeRandomModel(folder: string, size: keyof typeof shapes): string {
  const starter = JSON.parse(readFileSync(join(starterModel, "config.json"), "utf8")) as Record<string, unknown>;
  const json = { ...starter, ...shapes[size], num_key_value_heads: 3, tie_word_embeddings: false };
  mkdirSync(folder, { recursive: true });
  copyTokenizerFiles(folder, starterModel);
  writeFileSync(join(folder, "config.json"), `${JSON.stringify(json, null, 2)}\n`);
  const config = parseModelConfig(json, "config of random weights");
  const packed = initialWeights(config, 1);
  const H = config.hiddenSize;
  for (const { name, offset, size: length } of weightLayout(config)) {
    if (name === "model.embed_tokens.weight") for (let v = 0; v < config.vocabSize; v++) packed[offset + v * H] = 1;
    if (/(o_proj|down_proj)\.weight$/.test(name)) packed.fill(0, offset, offset + length / H); // the row of unit 0
    if (name !== "lm_head.weight") continue;
    for (const id of loadTokenizer(starterModel, config).stopIds) {
      const row = offset + id * H;
      packed.fill(0, row, row + H);
      packed[row] = -NEVER;
    }
  }
  saveModelFolder(folder, folder, config, packed);
  return folder;
}

const lora = runConfigSchema.parse({}).lora;

/**
 * A temporary PEFT folder of adapters with random A and B, so that the gradient reaches both.
 * @param model the base; null = `use` is called without adapters
 */
export async function withAdapter(model: string | null, use: (folder: string | null) => Promise<void>): Promise<void> {
  if (model === null) return use(null);
  const folder = mkdtempSync(join(tmpdir(), "frl-bench-adapter-"));
  try {
    const layout = loraLayout(readModelConfig(model), lora);
    const random = mulberry32(1);
    const packed = new Float32Array(layoutSize(layout));
    // B is small: the completions are sampled without adapters, and ours weighs tokens by how far
    // the policy has moved.
    for (const { name, offset, size } of layout)
      for (let i = offset; i < offset + size; i++)
        packed[i] = (name.endsWith("lora_A.weight") ? 0.02 : 0.0002) * (2 * random() - 1);
    saveAdapterFolder(folder, model, layout, packed, lora);
    await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
