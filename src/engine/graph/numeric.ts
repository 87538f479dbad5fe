/**
 * How a graph holds its weights and in which format it computes: all that differs between CPU and
 * CUDA. Residual stream, norms, softmax, logits and sampling are float32 in every graph.
 */
import type { ModelConfig } from "../../model/config.js";
import type { AdapterInput } from "./adapters.js";

export interface Numeric {
  /** Number type of the linear layers (weights, biases, outputs) and of keys and values. */
  readonly dtype: "float32" | "float16";
  /** Linear layers multiply 8-bit integers (int8.ts); `dtype` is float32 then. */
  readonly int8?: boolean;
  /** Weights are inputs, fed at each run, or initializers, loaded when the session is made. */
  readonly weights: "inputs" | "initializers";
  /** Linear layers multiply weights from the left (`linear` in qwen2.ts); never with adapters. */
  readonly weightsFirst?: boolean;
  /**
   * Few large operators, for a GPU that each costs a launch: GroupQueryAttention (decode-loop of
   * grouped-segment.ts), q, k and v as one matrix, gate and up as one.
   */
  readonly fused?: boolean;
  /** LoRA beside the base, as inputs. Empty without LoRA, or when it is merged into the weights. */
  readonly adapters: readonly AdapterInput[];
}

/** Everything float32, weights as inputs: on CPU a new policy then costs a copy. */
export const CPU_FLOAT32: Numeric = { dtype: "float32", weights: "inputs", adapters: [] };

/** How the weights of linear layers are stored. */
export type WeightDtype = Numeric["dtype"] | "int8";

export const weightDtype = ({ dtype, int8 }: Pick<Numeric, "dtype" | "int8">): WeightDtype =>
  int8 === true ? "int8" : dtype;

/** GroupQueryAttention computes float16 on CUDA, and rotates heads of multiples of 16. */
export const isFused = ({ headDim }: Pick<ModelConfig, "headDim">, dtype: WeightDtype): boolean =>
  dtype === "float16" && headDim % 16 === 0;

/** LM head: never float16, so but for float32 it is stored apart from a tied embedding. */
export function headName(shape: ModelConfig, dtype: WeightDtype): string {
  return shape.tieWordEmbeddings && dtype === "float32" ? "embedding" : "lm_head";
}
