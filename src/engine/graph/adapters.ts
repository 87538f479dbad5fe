/** LoRA as inputs of a graph, beside the weights that it changes. */
import type { ModelConfig } from "../../model/config.js";
import type { LayoutEntry } from "../../model/layout.js";
import { loraLayout, type LoraSpec } from "../../model/lora.js";
import { layerNames, weightViews } from "./weights.js";

/** LoRA of one weight of the graph: x · Aᵀ · Bᵀ is added to x · Wᵀ. */
export interface AdapterInput {
  readonly weight: string;
  /** [k, in]: the A of every module in the weight, one under the other */
  readonly a: { readonly name: string; readonly shape: readonly number[] };
  /** The weight's shape with k in place of `in`: each module's scaled B in its rows and columns. */
  readonly b: { readonly name: string; readonly shape: readonly number[] };
  readonly modules: readonly AdapterModule[];
}

interface AdapterModule {
  /** Entries of `loraLayout`. */
  readonly a: LayoutEntry;
  readonly b: LayoutEntry;
  /** Its first row in the weight, and its first column in `b`. */
  readonly row: number;
  readonly column: number;
}

/** The adapters of every weight that has one. @param fused see `weightViews` */
export function adapterInputs(shape: ModelConfig, lora: LoraSpec, fused = false): AdapterInput[] {
  const layout = new Map(loraLayout(shape, lora).map((entry) => [entry.name, entry]));
  const shapes = new Map(weightViews(shape, fused).map(({ name, shape }) => [name, shape]));
  const inputs: AdapterInput[] = [];
  for (let layer = 0; layer < shape.numLayers; layer++) {
    const names = layerNames(layer);
    const q = shape.numHeads * shape.headDim;
    const kv = shape.numKvHeads * shape.headDim;
    /** Modules of each weight, with their first rows. */
    const parts: (readonly [string, Readonly<Record<string, number>>])[] = [
      [names.qkv, { "self_attn.q_proj": 0, "self_attn.k_proj": q, "self_attn.v_proj": q + kv }],
      [names.o, { "self_attn.o_proj": 0 }],
      ...(fused
        ? ([[names.gateUp, { "mlp.gate_proj": 0, "mlp.up_proj": shape.intermediateSize }]] as const)
        : ([
            [names.gate, { "mlp.gate_proj": 0 }],
            [names.up, { "mlp.up_proj": 0 }],
          ] as const)),
      [names.down, { "mlp.down_proj": 0 }],
    ];
    for (const [weight, rows] of parts) {
      const modules: AdapterModule[] = [];
      for (const [module, row] of Object.entries(rows)) {
        const a = layout.get(`model.layers.${layer}.${module}.lora_A.weight`);
        const b = layout.get(`model.layers.${layer}.${module}.lora_B.weight`);
        if (a !== undefined && b !== undefined) modules.push({ a, b, row, column: modules.length * lora.r });
      }
      if (modules.length === 0) continue;
      const dims = shapes.get(weight)!;
      const k = modules.length * lora.r;
      inputs.push({
        weight,
        a: { name: `${weight}.lora_A`, shape: [k, dims.at(-1)!] },
        b: { name: `${weight}.lora_B`, shape: [...dims.slice(0, -1), k] },
        modules,
      });
    }
  }
  return inputs;
}

/** Fills the two inputs of an adapter from published adapters (`loraLayout` order). */
export function fillAdapter({ a, b, modules }: AdapterInput, published: Float32Array, scale: number) {
  const [k, width] = a.shape as [number, number];
  const filled = { a: new Float32Array(k * width), b: new Float32Array(b.shape.reduce((x, y) => x * y, 1)) };
  for (const module of modules) {
    filled.a.set(published.subarray(module.a.offset, module.a.offset + module.a.size), module.column * width);
    const [out, r] = module.b.shape as [number, number];
    for (let o = 0; o < out; o++) {
      for (let c = 0; c < r; c++) {
        filled.b[(module.row + o) * k + module.column + c] = scale * published[module.b.offset + o * r + c]!;
      }
    }
  }
  return filled;
}
