/**
 * LoRA adapters in PEFT's meaning: which modules have one, their names, shapes and packed order.
 * Formula (Hu et al. 2021, eq. 3): y = W x + (lora_alpha / r) · B A x.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ModelConfig } from "./config.js";
import { copyTokenizerFiles } from "./folder.js";
import { packShapes, type LayoutEntry } from "./layout.js";
import { writeSafetensors } from "./safetensors.js";

export interface LoraSpec {
  readonly r: number;
  readonly lora_alpha: number;
  readonly lora_dropout: number;
  readonly target_modules: readonly string[];
}

/** `<module>.lora_A.weight` [r, in] and `<module>.lora_B.weight` [out, r], layer by layer in the model's own order. */
export function loraLayout(config: ModelConfig, lora: Pick<LoraSpec, "r" | "target_modules">): LayoutEntry[] {
  const H = config.hiddenSize;
  const q = config.numHeads * config.headDim;
  const kv = config.numKvHeads * config.headDim;
  const I = config.intermediateSize;
  /** [in, out] by module. */
  const modules: Record<string, readonly [string, number, number]> = {
    q_proj: ["self_attn", H, q],
    k_proj: ["self_attn", H, kv],
    v_proj: ["self_attn", H, kv],
    o_proj: ["self_attn", q, H],
    gate_proj: ["mlp", H, I],
    up_proj: ["mlp", H, I],
    down_proj: ["mlp", I, H],
  };
  const shapes: [string, number[]][] = [];
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const [module, [part, inputs, outputs]] of Object.entries(modules)) {
      if (!lora.target_modules.includes(module)) continue;
      const name = `model.layers.${layer}.${part}.${module}`;
      shapes.push([`${name}.lora_A.weight`, [lora.r, inputs]], [`${name}.lora_B.weight`, [outputs, lora.r]]);
    }
  }
  return packShapes(shapes);
}

/**
 * Writes a PEFT adapter folder: `adapter_config.json`, `adapter_model.safetensors` (names under `base_model.model.`,
 * as PEFT's `get_peft_model_state_dict` has them), and the tokenizer's files.
 * @param packed adapters in `loraLayout` order
 */
export function saveAdapterFolder(
  target: string,
  baseFolder: string,
  layout: readonly LayoutEntry[],
  packed: Float32Array,
  lora: LoraSpec,
): void {
  mkdirSync(target, { recursive: true });
  copyTokenizerFiles(target, baseFolder);
  const config = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: baseFolder,
    r: lora.r,
    lora_alpha: lora.lora_alpha,
    lora_dropout: lora.lora_dropout,
    target_modules: lora.target_modules,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    use_rslora: false,
    use_dora: false,
  };
  writeFileSync(join(target, "adapter_config.json"), `${JSON.stringify(config, null, 2)}\n`);
  const tensors = layout.map(({ name, shape, offset, size }) => ({
    name: `base_model.model.${name}`,
    shape,
    data: packed.subarray(offset, offset + size),
  }));
  writeSafetensors(join(target, "adapter_model.safetensors"), tensors);
}
