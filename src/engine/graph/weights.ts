/**
 * Which slices of the packed buffer a graph takes as inputs. Neighbouring parameters are one tensor
 * without copying: q, k and v as a stack of heads [1, Hq + 2 Hkv, D, H], and so their biases.
 */
import type { ModelConfig } from "../../model/config.js";
import { weightLayout, type LayoutEntry } from "../../model/layout.js";

export type WeightView = Pick<LayoutEntry, "name" | "shape" | "offset">;

export function layerNames(layer: number) {
  const of = (part: string) => `layers.${layer}.${part}`;
  return {
    inputNorm: of("input_norm"),
    qkv: of("qkv"),
    qkvBias: of("qkv_bias"),
    o: of("o"),
    postNorm: of("post_norm"),
    gate: of("gate"),
    up: of("up"),
    gateUp: of("gate_up"),
    down: of("down"),
  };
}

/**
 * Every weight input, in the order of the packed buffer.
 * @param fused q, k and v are the rows of one matrix, and so are gate and up
 */
export function weightViews(shape: ModelConfig, fused = false): WeightView[] {
  const { hiddenSize: H, headDim: D, numHeads: Hq, numKvHeads: Hkv, intermediateSize: I } = shape;
  const heads = Hq + 2 * Hkv;
  const layout = new Map(weightLayout(shape).map((entry) => [entry.name, entry]));
  const view = (name: string, parameter: string, dims?: readonly number[]): WeightView => {
    const entry = layout.get(parameter);
    if (entry === undefined) throw new Error(`no parameter ${parameter} in the layout`);
    return { name, shape: dims ?? entry.shape, offset: entry.offset };
  };
  const views = [view("embedding", "model.embed_tokens.weight")];
  for (let i = 0; i < shape.numLayers; i++) {
    const names = layerNames(i);
    const layer = `model.layers.${i}.`;
    views.push(view(names.inputNorm, `${layer}input_layernorm.weight`));
    views.push(view(names.qkv, `${layer}self_attn.q_proj.weight`, fused ? [heads * D, H] : [1, heads, D, H]));
    if (shape.qkvBias)
      views.push(view(names.qkvBias, `${layer}self_attn.q_proj.bias`, fused ? [heads * D] : [heads, 1, D]));
    views.push(view(names.o, `${layer}self_attn.o_proj.weight`));
    views.push(view(names.postNorm, `${layer}post_attention_layernorm.weight`));
    if (fused) views.push(view(names.gateUp, `${layer}mlp.gate_proj.weight`, [2 * I, H]));
    else views.push(view(names.gate, `${layer}mlp.gate_proj.weight`), view(names.up, `${layer}mlp.up_proj.weight`));
    views.push(view(names.down, `${layer}mlp.down_proj.weight`));
  }
  views.push(view("final_norm", "model.norm.weight"));
  if (!shape.tieWordEmbeddings) views.push(view("lm_head", "lm_head.weight"));
  return views;
}
