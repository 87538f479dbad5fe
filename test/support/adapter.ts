/** A random LoRA adapter on a model, and the same model with it merged by plain arithmetic. */
import { join } from "node:path";
import { readModelConfig } from "../../src/model/config.js";
import { saveModelFolder } from "../../src/model/folder.js";
import { layoutSize, weightLayout } from "../../src/model/layout.js";
import { type LoraSpec, loraLayout, saveAdapterFolder } from "../../src/model/lora.js";
import { loadPacked } from "../../src/model/model-weights.js";
import { Draw } from "../../src/math/random.js";

/**
 * Writes `adapter` and `merged` into `folder`.
 * @param size of the entries of A and B: uniform in (-size, size)
 */
export function randomAdapter(base: string, folder: string, size: number): { adapter: string; merged: string } {
  const config = readModelConfig(base);
  const lora: LoraSpec = { r: 4, lora_alpha: 8, lora_dropout: 0, target_modules: ["q_proj", "v_proj", "down_proj"] };
  const layout = loraLayout(config, lora);
  const draw = new Draw(1);
  const packed = Float32Array.from({ length: layoutSize(layout) }, () => size * (2 * draw.unit() - 1));
  const adapter = join(folder, "adapter");
  saveAdapterFolder(adapter, base, layout, packed, lora);

  const weights = loadPacked(base, config);
  const places = new Map(weightLayout(config).map((entry) => [entry.name, entry]));
  for (const [i, a] of layout.entries()) {
    if (!a.name.endsWith(".lora_A.weight")) continue;
    const b = layout[i + 1]!; // A and B of a module are neighbours
    const [r, inputs] = a.shape as [number, number];
    const { offset } = places.get(a.name.replace("lora_A.", ""))!;
    for (let row = 0; row < b.shape[0]!; row++)
      for (let column = 0; column < inputs; column++)
        for (let k = 0; k < r; k++)
          weights[offset + row * inputs + column]! +=
            (lora.lora_alpha / r) * packed[b.offset + row * r + k]! * packed[a.offset + k * inputs + column]!;
  }
  const merged = join(folder, "merged");
  saveModelFolder(merged, base, config, weights);
  return { adapter, merged };
}
