/** Weights under Hugging Face's names, as views of flat buffers. Knows names; knows no formulas. */
import type { Tensor, Tensor1D } from "@tensorflow/tfjs";
import type { LayoutEntry } from "../../model/layout.js";
import type { TF } from "../backend/backend.js";

export interface NamedWeights {
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Adapters `<module>.lora_A.weight` [r, in] and `….lora_B.weight` [out, r] are in `tensors`. */
  readonly lora: { readonly scale: number; readonly dropout: Dropout | null } | null;
}

/** Dropout on the adapters' inputs; by its seed a recomputed block drops what it dropped before. */
export interface Dropout {
  readonly rate: number;
  readonly seed: string;
}

/** Views of a flat buffer by name. Differentiable: their gradient is one flat gradient. */
export function splitFlat(tf: TF, flat: Tensor, layout: readonly LayoutEntry[]): Map<string, Tensor> {
  const views = tf.tidy(() => {
    const sizes = layout.map(({ size }) => size);
    const parts = sizes.length === 1 ? [flat] : tf.split(flat as Tensor1D, sizes);
    // A part that is a vector is its view; the flat buffer itself must not be, which outlives it.
    return layout.map(({ shape }, i) =>
      shape.length === 1 && layout.length > 1 ? parts[i]! : tf.reshape(parts[i]!, [...shape]),
    );
  });
  return new Map(layout.map((entry, i) => [entry.name, views[i]!]));
}

/** Looks a weight up. @throws Error when there is none of that name */
export function weight(weights: NamedWeights, name: string): Tensor {
  const tensor = weights.tensors.get(name);
  if (tensor === undefined) throw new Error(`no weight named ${name}`);
  return tensor;
}
