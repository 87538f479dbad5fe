/** The policy, forward only. Legend: N packed tokens, M completion tokens (targets), H hidden. */
import type { Scalar, Tensor, Tensor1D, Tensor2D, TensorContainer } from "@tensorflow/tfjs";
import type { ModelConfig } from "../../model/config.js";
import type { TF } from "../backend/backend.js";
import { constant } from "../backend/scalars.js";
import { attention, attentionTensors } from "./attention.js";
import { checkpointed } from "./checkpointing.js";
import { weight, type NamedWeights } from "./named-weights.js";
import { packGroups, type SequenceGroup } from "./packing.js";
import { partSizes } from "./part-sizes.js";
import { plus, product, rmsNorm, rotary, rotaryTables, swiGlu } from "./primitives.js";
import { type GradientOf, tokenLogprobs } from "./token-logprobs.js";

/** A packed microbatch on the backend. Dispose with `disposeBatch`. */
export type Microbatch = ReturnType<typeof prepareMicrobatch>;

export function prepareMicrobatch(tf: TF, shape: ModelConfig, groups: readonly SequenceGroup[], keepLast = false) {
  const packed = packGroups(groups, shape, keepLast);
  return {
    packed,
    ids: tf.tensor1d(packed.ids, "int32"),
    predictors: tf.tensor1d(packed.predictors, "int32"),
    lastRows: keepLast ? tf.tensor1d(packed.lastRows, "int32") : null,
    rotary: {
      queries: rotaryTables(tf, packed.positions, shape, shape.numHeads),
      keys: rotaryTables(tf, packed.positions, shape, shape.numKvHeads),
    },
    attention: attentionTensors(tf, packed.attention),
  };
}

export function disposeBatch(tf: TF, batch: Microbatch): void {
  const { packed: _packed, attention: all, ...rest } = batch;
  const { plan: _plan, ...tensors } = all;
  tf.dispose([rest, tensors] as unknown as TensorContainer);
}

/** y = x Wᵀ + b + (drop(x) Aᵀ) Bᵀ · scale (Hu et al. 2021, eq. 3); no gradient needs the terms. */
function linear(tf: TF, x: Tensor, module: string, weights: NamedWeights): Tensor2D {
  return tf.tidy(() => {
    let y = product(tf, x, weight(weights, `${module}.weight`), weights.lora !== null);
    const bias = weights.tensors.get(`${module}.bias`);
    if (bias !== undefined) y = plus(tf, y, bias, weights.lora !== null);
    const a = weights.lora === null ? undefined : weights.tensors.get(`${module}.lora_A.weight`);
    if (weights.lora === null || a === undefined) return y;
    const { scale, dropout } = weights.lora;
    const input = dropout === null ? x : tf.dropout(x, dropout.rate, undefined, `${dropout.seed} ${module}`);
    const down = tf.mul(product(tf, input, a), constant(tf, scale));
    return plus(tf, y, product(tf, down, weight(weights, `${module}.lora_B.weight`)));
  });
}

const normalised = (tf: TF, shape: ModelConfig, weights: NamedWeights, x: Tensor, module: string): Tensor2D =>
  rmsNorm(tf, x, weight(weights, `${module}.weight`), shape.rmsNormEps, weights.lora !== null);

/** A decoder block, by the number of its layer. */
type Block = { readonly tf: TF; readonly shape: ModelConfig; readonly weights: NamedWeights; readonly layer: number };

/** First half of a decoder block: x + attention(norm(x)). x is [N, H]. */
function attentionHalf({ tf, shape, weights, layer }: Block, x: Tensor, batch: Microbatch): Tensor {
  const prefix = `model.layers.${layer}.`;
  const normed = normalised(tf, shape, weights, x, `${prefix}input_layernorm`);
  const q = rotary(tf, linear(tf, normed, `${prefix}self_attn.q_proj`, weights), batch.rotary.queries);
  const k = rotary(tf, linear(tf, normed, `${prefix}self_attn.k_proj`, weights), batch.rotary.keys);
  const v = linear(tf, normed, `${prefix}self_attn.v_proj`, weights);
  const attended = attention(tf, q, k, v, batch.attention, shape.headDim);
  return plus(tf, x, linear(tf, attended, `${prefix}self_attn.o_proj`, weights));
}

/** Second half: x + mlp(norm(x)), a function of each row alone. x is [N, H], or some rows of it. */
function mlpHalf({ tf, shape, weights, layer }: Block, x: Tensor): Tensor {
  const prefix = `model.layers.${layer}.`;
  const normed = normalised(tf, shape, weights, x, `${prefix}post_attention_layernorm`);
  const gate = linear(tf, normed, `${prefix}mlp.gate_proj`, weights);
  const up = linear(tf, normed, `${prefix}mlp.up_proj`, weights);
  return plus(tf, x, linear(tf, swiGlu(tf, gate, up), `${prefix}mlp.down_proj`, weights));
}

/**
 * Hidden states after the final norm, [N, H]; `checkpointing` recomputes blocks for the gradient.
 * @param maxMlp with checkpointing: elements of the MLP's arrays that are recomputed at once
 */
export function hiddenStates(
  tf: TF,
  shape: ModelConfig,
  weights: NamedWeights,
  batch: Microbatch,
  checkpointing = false,
  maxMlp = partSizes(tf).mlp,
): Tensor2D {
  let x: Tensor = tf.gather(weight(weights, "model.embed_tokens.weight"), batch.ids);
  for (let layer = 0; layer < shape.numLayers; layer++) {
    const block = { tf, shape, weights, layer };
    // Tidied: the tape keeps what the gradient needs, the rest would outlive its block.
    const next = checkpointing
      ? checkpointedBlock(block, x, batch, maxMlp)
      : tf.tidy(() => mlpHalf(block, attentionHalf(block, x, batch)));
    x.dispose(); // what a gradient needs of it, the tape holds
    x = next;
  }
  return normalised(tf, shape, weights, x, "model.norm");
}

/** A block recomputed for the gradient, in halves; the MLP's large arrays also in parts of rows. */
function checkpointedBlock(block: Block, x: Tensor, batch: Microbatch, maxMlp: number): Tensor {
  const { tf, shape, weights, layer } = block;
  const prefix = `model.layers.${layer}.`;
  const ofAttention = [`${prefix}input_layernorm.`, `${prefix}self_attn.`];
  const ofMlp = [`${prefix}post_attention_layernorm.`, `${prefix}mlp.`];
  const rowsAtOnce = Math.max(1, Math.floor(maxMlp / shape.intermediateSize));
  const middle = checkpointed(tf, x, weights, ofAttention, x.shape[0]!, (x, weights) =>
    attentionHalf({ ...block, weights }, x, batch),
  );
  return checkpointed(tf, middle, weights, ofMlp, rowsAtOnce, (x, weights) => mlpHalf({ ...block, weights }, x));
}

/** @returns [M, 2] log-probabilities and entropies of the completion tokens, see `tokenLogprobs` */
export function completionLogprobs(
  tf: TF,
  shape: ModelConfig,
  weights: NamedWeights,
  hidden: Tensor,
  batch: Microbatch,
  temperature: number,
  gradientOf: GradientOf = "none",
): Tensor2D {
  const head = weight(weights, shape.tieWordEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  return tokenLogprobs(tf, tf.gather(hidden, batch.predictors), head, batch.packed.targets, temperature, {
    gradientOf,
    frozenHead: weights.lora !== null,
  });
}

/** Values of the states before each completion token, [M]: hidden · w + b. */
export function completionValues(tf: TF, weights: NamedWeights, hidden: Tensor, rows: Tensor1D): Tensor1D {
  const states = tf.gather(hidden, rows) as Tensor2D;
  const column = tf.reshape(weight(weights, "value_head.weight"), [-1, 1]) as Tensor2D;
  return tf.reshape(tf.add(tf.matMul(states, column), weight(weights, "value_head.bias") as Scalar), [-1]) as Tensor1D;
}
