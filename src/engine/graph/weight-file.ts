/** The file of a graph's initializers: what lies where. */
import type { ModelConfig } from "../../model/config.js";
import { scaleName } from "./int8.js";
import { headName, isFused, type WeightDtype } from "./numeric.js";
import { layerNames, weightViews, type WeightView } from "./weights.js";

/** Name of the file with the initializers, beside the model file. */
export const WEIGHTS_FILE = "weights.bin";
/** Initializers start at multiples of a page, as ONNX recommends for files that are mapped. */
const ALIGNMENT = 4096;

export interface StoredWeight extends WeightView {
  readonly dtype: WeightDtype;
  readonly position: number;
}

/**
 * Every initializer, in the order of the file. An int8 weight is [in, out], followed by its scales.
 */
export function storedWeights(
  shape: ModelConfig,
  dtype: WeightDtype,
  fused: boolean = isFused(shape, dtype),
): StoredWeight[] {
  const views = weightViews(shape, fused);
  if (shape.tieWordEmbeddings && dtype !== "float32") views.push({ ...views[0]!, name: "lm_head" });
  let position = 0;
  const place = (view: WeightView, type: WeightDtype): StoredWeight => {
    const stored: StoredWeight = { ...view, dtype: type, position };
    position = Math.ceil((position + byteLength(stored)) / ALIGNMENT) * ALIGNMENT;
    return stored;
  };
  return views.flatMap((view) => {
    const { name } = view;
    if (dtype === "int8" && isLinear(name)) {
      const width = view.shape.at(-1)!;
      const out = view.shape.reduce((a, b) => a * b, 1) / width;
      return [
        place({ ...view, shape: [width, out] }, "int8"),
        place({ ...view, name: scaleName(name), shape: [out] }, "float32"),
      ];
    }
    const isWide = dtype === "int8" || name === "lm_head" || name.endsWith("norm");
    return [place(view, isWide ? "float32" : dtype)];
  });
}

const isLinear = (name: string): boolean => name === "lm_head" || /\.(qkv|o|gate|up|down)$/.test(name);

/** Weights that come after the last layer's keys and values, where the prefill graph ends. */
export function beyondPrefill(shape: ModelConfig, dtype: WeightDtype): ReadonlySet<string> {
  const { o, postNorm, gate, up, gateUp, down } = layerNames(shape.numLayers - 1);
  const head = headName(shape, dtype);
  const names = [o, postNorm, gate, up, gateUp, down, "final_norm", ...(head === "embedding" ? [] : [head])];
  return new Set([...names, ...names.map(scaleName)]);
}

const BYTES: Record<WeightDtype, number> = { float32: 4, float16: 2, int8: 1 };

export function byteLength({ shape, dtype }: Pick<StoredWeight, "shape" | "dtype">): number {
  return shape.reduce((a, b) => a * b, 1) * BYTES[dtype];
}
