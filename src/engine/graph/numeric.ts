/**
 * How a graph holds its weights and in which format it computes: the one thing in which the graphs
 * of CPU and CUDA differ. Residual stream, norms, softmax, logits and sampling are float32 in every
 * graph. Knows names and shapes.
 */
import type { ModelConfig } from "../../model/config.js";
import type { LayoutEntry } from "../../model/layout.js";
import { loraLayout, type LoraSpec } from "../../model/lora.js";
import { layerNames, weightViews, type WeightView } from "./weights.js";

export interface Numeric {
  /** Of weights and biases of linear layers, what these compute, keys and values. */
  readonly dtype: "float32" | "float16";
  /**
   * Weights are inputs (fed at each run) or initializers (loaded when the session is made, from
   * `WEIGHTS_FILE`).
   */
  readonly weights: "inputs" | "initializers";
  /**
   * Linear layers multiply weights from the left: see `linear` in qwen2.ts. Without adapters only.
   */
  readonly weightsFirst?: boolean;
  /** LoRA beside the base, as inputs. Empty without LoRA, or when it is merged into the weights. */
  readonly adapters: readonly AdapterInput[];
}

/** Everything float32, weights as inputs: on CPU a new policy then costs a copy. */
export const CPU_FLOAT32: Numeric = { dtype: "float32", weights: "inputs", adapters: [] };

/** Name of the file with the initializers, beside the model file. */
export const WEIGHTS_FILE = "weights.bin";
/**
 * Initializers start at multiples of this (a page), as the ONNX format recommends for files that
 * are mapped.
 */
const ALIGNMENT = 4096;

/** A weight of the graph in `WEIGHTS_FILE`. */
export interface StoredWeight extends WeightView {
  readonly dtype: Numeric["dtype"];
  /** First byte. */
  readonly position: number;
}

/**
 * Matrix of the LM head: float32 always, so with float16 it is stored apart from a tied embedding.
 */
export function headName(config: ModelConfig, { dtype }: Pick<Numeric, "dtype">): string {
  return config.tieWordEmbeddings && dtype === "float32" ? "embedding" : "lm_head";
}

/** Every initializer, in the order of the file. */
export function storedWeights(config: ModelConfig, dtype: Numeric["dtype"]): StoredWeight[] {
  const views = weightViews(config);
  if (config.tieWordEmbeddings && dtype === "float16") views.push({ ...views[0]!, name: "lm_head" });
  let position = 0;
  return views.map((view) => {
    const wide = view.name === "lm_head" || view.name.endsWith("norm");
    const stored: StoredWeight = { ...view, dtype: wide ? "float32" : dtype, position };
    position = Math.ceil((position + byteLength(stored)) / ALIGNMENT) * ALIGNMENT;
    return stored;
  });
}

/**
 * Names of the weights that come after the last layer's keys and values: the prefill graph ends
 * there.
 */
export function beyondPrefill(config: ModelConfig, dtype: Numeric["dtype"]): ReadonlySet<string> {
  const { o, postNorm, gate, up, down } = layerNames(config.numLayers - 1);
  const head = headName(config, { dtype });
  return new Set([o, postNorm, gate, up, down, "final_norm", ...(head === "embedding" ? [] : [head])]);
}

export function byteLength({ shape, dtype }: Pick<StoredWeight, "shape" | "dtype">): number {
  return shape.reduce((a, b) => a * b, 1) * (dtype === "float16" ? 2 : 4);
}

/** LoRA of one weight of the graph: x · Aᵀ · Bᵀ is added to x · Wᵀ. */
export interface AdapterInput {
  readonly weight: string;
  /** [k, in]: the A of every module in the weight, one under the other */
  readonly a: { readonly name: string; readonly shape: readonly number[] };
  /**
   * The weight's shape with k in place of `in`: each module's B times lora_alpha / r, in its own
   * rows and columns.
   */
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

/** The adapters of every weight that has one. */
export function adapterInputs(config: ModelConfig, lora: LoraSpec): AdapterInput[] {
  const layout = new Map(loraLayout(config, lora).map((entry) => [entry.name, entry]));
  const shapes = new Map(weightViews(config).map(({ name, shape }) => [name, shape]));
  const inputs: AdapterInput[] = [];
  for (let layer = 0; layer < config.numLayers; layer++) {
    const names = layerNames(layer);
    const q = config.numHeads * config.headDim;
    const kv = config.numKvHeads * config.headDim;
    /** Modules of each weight, with their first rows. */
    const parts: [string, Record<string, number>][] = [
      [names.qkv, { "self_attn.q_proj": 0, "self_attn.k_proj": q, "self_attn.v_proj": q + kv }],
      [names.o, { "self_attn.o_proj": 0 }],
      [names.gate, { "mlp.gate_proj": 0 }],
      [names.up, { "mlp.up_proj": 0 }],
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
      const shape = shapes.get(weight)!;
      const k = modules.length * lora.r;
      inputs.push({
        weight,
        a: { name: `${weight}.lora_A`, shape: [k, shape.at(-1)!] },
        b: { name: `${weight}.lora_B`, shape: [...shape.slice(0, -1), k] },
        modules,
      });
    }
  }
  return inputs;
}

/** Fills the two inputs of an adapter from published adapters (`loraLayout` order). */
export function fillAdapter(
  { a, b, modules }: AdapterInput,
  published: Float32Array,
  scale: number,
): { a: Float32Array; b: Float32Array } {
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
