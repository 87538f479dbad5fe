/** The one packed float32 layout of weights. Neighbours (q, k, v; gate, up) are viewed as one. */
import type { ModelConfig } from "./config.js";

export interface LayoutEntry {
  readonly name: string;
  readonly shape: readonly number[];
  /** First element in the packed buffer. */
  readonly offset: number;
  readonly size: number;
}

/** Names and shapes of every parameter in packed order; `offset` counts float32 elements. */
export function weightLayout(shape: ModelConfig): LayoutEntry[] {
  const { hiddenSize: H, intermediateSize: I, vocabSize: V } = shape;
  const q = shape.numHeads * shape.headDim;
  const kv = shape.numKvHeads * shape.headDim;
  const shapes: [string, number[]][] = [["model.embed_tokens.weight", [V, H]]];
  for (let i = 0; i < shape.numLayers; i++) {
    const layer = `model.layers.${i}.`;
    const attention = `${layer}self_attn.`;
    shapes.push([`${layer}input_layernorm.weight`, [H]]);
    shapes.push(
      [`${attention}q_proj.weight`, [q, H]],
      [`${attention}k_proj.weight`, [kv, H]],
      [`${attention}v_proj.weight`, [kv, H]],
    );
    if (shape.qkvBias)
      shapes.push(
        [`${attention}q_proj.bias`, [q]],
        [`${attention}k_proj.bias`, [kv]],
        [`${attention}v_proj.bias`, [kv]],
      );
    shapes.push([`${attention}o_proj.weight`, [H, q]]);
    shapes.push([`${layer}post_attention_layernorm.weight`, [H]]);
    shapes.push(
      [`${layer}mlp.gate_proj.weight`, [I, H]],
      [`${layer}mlp.up_proj.weight`, [I, H]],
      [`${layer}mlp.down_proj.weight`, [H, I]],
    );
  }
  shapes.push(["model.norm.weight", [H]]);
  if (!shape.tieWordEmbeddings) shapes.push(["lm_head.weight", [V, H]]);
  return packShapes(shapes);
}

/** Gives each (name, shape) its place in a packed buffer, in the order given. */
export function packShapes(shapes: readonly (readonly [string, readonly number[]])[]): LayoutEntry[] {
  let offset = 0;
  return shapes.map(([name, shape]) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const entry = { name, shape, offset, size };
    offset += size;
    return entry;
  });
}

/** The tensors that a layout describes, as views of a packed buffer. */
export const tensorsIn = (packed: Float32Array, layout: readonly LayoutEntry[]) =>
  layout.map((entry) => ({ ...entry, data: packed.subarray(entry.offset, entry.offset + entry.size) }));

/** Elements of the packed buffer a layout describes. */
export function layoutSize(layout: readonly LayoutEntry[]): number {
  const last = layout.at(-1);
  return last === undefined ? 0 : last.offset + last.size;
}
