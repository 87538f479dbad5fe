/** The file of a graph's initializers: what lies where. */
import type { ModelConfig } from "../../model/config.js";
import { headName, type Numeric } from "./numeric.js";
import { layerNames, weightViews, type WeightView } from "./weights.js";

/** Name of the file with the initializers, beside the model file. */
export const WEIGHTS_FILE = "weights.bin";
/** Initializers start at multiples of a page, as ONNX recommends for files that are mapped. */
const ALIGNMENT = 4096;

export interface StoredWeight extends WeightView {
  readonly dtype: Numeric["dtype"];
  readonly position: number;
}

/** Every initializer, in the order of the file. */
export function storedWeights(shape: ModelConfig, dtype: Numeric["dtype"]): StoredWeight[] {
  const views = weightViews(shape);
  if (shape.tieWordEmbeddings && dtype === "float16") views.push({ ...views[0]!, name: "lm_head" });
  let position = 0;
  return views.map((view) => {
    const wide = view.name === "lm_head" || view.name.endsWith("norm");
    const stored: StoredWeight = { ...view, dtype: wide ? "float32" : dtype, position };
    position = Math.ceil((position + byteLength(stored)) / ALIGNMENT) * ALIGNMENT;
    return stored;
  });
}

/** Weights that come after the last layer's keys and values, where the prefill graph ends. */
export function beyondPrefill(shape: ModelConfig, dtype: Numeric["dtype"]): ReadonlySet<string> {
  const { o, postNorm, gate, up, down } = layerNames(shape.numLayers - 1);
  const head = headName(shape, { dtype });
  return new Set([o, postNorm, gate, up, down, "final_norm", ...(head === "embedding" ? [] : [head])]);
}

export function byteLength({ shape, dtype }: Pick<StoredWeight, "shape" | "dtype">): number {
  return shape.reduce((a, b) => a * b, 1) * (dtype === "float16" ? 2 : 4);
}
