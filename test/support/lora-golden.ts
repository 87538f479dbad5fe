/**
 * test/golden/lora.json, which test/reference/lora_reference.py writes, and the inputs that both
 * build by formula.
 */
import { readFileSync } from "node:fs";
import { parseModelConfig } from "../../src/model/config.js";
import { layoutSize, weightLayout, type LayoutEntry } from "../../src/model/layout.js";
import { loraLayout, type LoraSpec } from "../../src/model/lora.js";

interface Golden {
  config: Record<string, unknown>;
  lora: { r: number; lora_alpha: number; target_modules: LoraSpec["target_modules"] };
  temperature: number;
  groups: { prompt: number[]; completions: number[][] }[];
  loss: number;
  logprobs: number[];
  base_logprobs: number[];
  grads: Record<string, number[]>;
  peft: { adapter_config: Record<string, unknown>; adapter_model_base64: string; shapes: Record<string, number[]> };
  /** Weights that adapters change, after PEFT's merge_and_unload: float32, row by row. */
  merged_base64: Record<string, string>;
}
export const golden = JSON.parse(readFileSync(new URL("../golden/lora.json", import.meta.url), "utf8")) as Golden;
export const goldenConfig = parseModelConfig(golden.config, "golden");

/** [layoutSize] the base's weights. */
export const goldenBase = byFormula(weightLayout(goldenConfig), 0, (name) => (name.includes("norm") ? 1 : 0));
/** [layoutSize] the adapters, in `loraLayout` order. */
export const goldenAdapters = byFormula(loraLayout(goldenConfig, golden.lora), 100, () => 0);
export const goldenGroups = golden.groups.map(({ prompt, completions }) => ({
  promptIds: Int32Array.from(prompt),
  completions: completions.map((completion) => Int32Array.from(completion)),
}));

/** The script's `fill`: element i of tensor k is 0.3 sin(0.7 i (1 + k/10) + k). */
function byFormula(layout: readonly LayoutEntry[], first: number, plus: (name: string) => number): Float32Array {
  const packed = new Float32Array(layoutSize(layout));
  layout.forEach(({ name, offset, size }, n) => {
    const k = first + n;
    for (let i = 0; i < size; i++) packed[offset + i] = 0.3 * Math.sin(0.7 * i * (1 + k / 10) + k) + plus(name);
  });
  return packed;
}
