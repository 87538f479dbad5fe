/**
 * The policy: Qwen2 / Llama as plain functions over named weights (design §7).
 * Forward only; gradients come from tfjs through the primitives. Knows no losses, no optimizer, no sockets.
 *
 * Legend: N packed tokens, M completion tokens (targets), H hidden.
 */
import type { Scalar, Tensor, Tensor1D, Tensor2D, TensorContainer } from "@tensorflow/tfjs";
import type { ModelConfig } from "../model/config.js";
import type { LayoutEntry } from "../model/layout.js";
import type { TF } from "./backend.js";
import { packGroups, type PackedBatch, type SequenceGroup } from "./packing.js";
import {
  attention,
  attentionTensors,
  customGrad,
  plus,
  rmsNorm,
  rotary,
  rotaryTables,
  swiGlu,
  tokenLogprobs,
  type AttentionTensors,
  type RotaryTables,
} from "./primitives.js";

/** Weights by Hugging Face name, with LoRA adapters laid over them where `lora` is set. */
export interface NamedWeights {
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** Adapters `<module>.lora_A.weight` [r, in] and `<module>.lora_B.weight` [out, r] are looked up in `tensors`. */
  readonly lora: { readonly scale: number; readonly dropout: Dropout | null } | null;
}

/** Dropout on the adapters' inputs. The seed makes a recomputed block (checkpointing) drop what its first forward dropped. */
export interface Dropout {
  readonly rate: number;
  readonly seed: string;
}

/** A packed microbatch on the backend. Dispose with `disposeBatch`. */
export interface Microbatch {
  readonly packed: PackedBatch;
  readonly ids: Tensor1D;
  readonly predictors: Tensor1D;
  readonly lastRows: Tensor1D | null;
  readonly rotary: RotaryTables;
  readonly attention: AttentionTensors;
}

export function prepareMicrobatch(
  tf: TF,
  config: ModelConfig,
  groups: readonly SequenceGroup[],
  keepLast = false,
): Microbatch {
  const packed = packGroups(groups, config, keepLast);
  return {
    packed,
    ids: tf.tensor1d(packed.ids, "int32"),
    predictors: tf.tensor1d(packed.predictors, "int32"),
    lastRows: keepLast ? tf.tensor1d(packed.lastRows, "int32") : null,
    rotary: rotaryTables(tf, packed.positions, config.headDim, config.ropeTheta),
    attention: attentionTensors(tf, packed.attention),
  };
}

export function disposeBatch(tf: TF, batch: Microbatch): void {
  const { packed: _packed, attention: all, ...rest } = batch;
  const { plan: _plan, ...tensors } = all;
  tf.dispose([rest, tensors] as unknown as TensorContainer);
}

/** Views of a flat buffer by name. Differentiable: the gradient of the views is one flat gradient. */
export function splitFlat(tf: TF, flat: Tensor, layout: readonly LayoutEntry[]): Map<string, Tensor> {
  const views = tf.tidy(() => {
    const parts =
      layout.length === 1
        ? [flat]
        : tf.split(
            flat as Tensor1D,
            layout.map((entry) => entry.size),
          );
    return layout.map((entry, i) => tf.reshape(parts[i]!, [...entry.shape]));
  });
  return new Map(layout.map((entry, i) => [entry.name, views[i]!]));
}

function weight(weights: NamedWeights, name: string): Tensor {
  const tensor = weights.tensors.get(name);
  if (tensor === undefined) throw new Error(`no weight named ${name}`);
  return tensor;
}

/** y = x Wᵀ + b, plus the adapter's (drop(x) Aᵀ) Bᵀ · scale where the module has one (Hu et al. 2021, eq. 3). */
function linear(tf: TF, x: Tensor, module: string, weights: NamedWeights): Tensor2D {
  let y: Tensor2D = tf.matMul(x as Tensor2D, weight(weights, `${module}.weight`) as Tensor2D, false, true);
  const bias = weights.tensors.get(`${module}.bias`);
  if (bias !== undefined) y = plus(tf, y, bias);
  const a = weights.lora === null ? undefined : weights.tensors.get(`${module}.lora_A.weight`);
  if (weights.lora === null || a === undefined) return y;
  const { scale, dropout } = weights.lora;
  const input = dropout === null ? x : tf.dropout(x, dropout.rate, undefined, `${dropout.seed} ${module}`);
  const down: Tensor2D = tf.matMul(input as Tensor2D, a as Tensor2D, false, true);
  const b = weight(weights, `${module}.lora_B.weight`) as Tensor2D;
  return plus(tf, y, tf.matMul(tf.mul(down, scale) as Tensor2D, b, false, true));
}

/**
 * One decoder block: x + attention(norm(x)), then x + mlp(norm(x)). x is [N, H].
 * Tidied: what the gradient needs is kept by the tape, the rest would otherwise live until the last block is done.
 */
function block(
  tf: TF,
  config: ModelConfig,
  x: Tensor,
  layer: number,
  weights: NamedWeights,
  batch: Microbatch,
): Tensor {
  return tf.tidy(() => blockOutput(tf, config, x, layer, weights, batch));
}

function blockOutput(
  tf: TF,
  config: ModelConfig,
  x: Tensor,
  layer: number,
  weights: NamedWeights,
  batch: Microbatch,
): Tensor {
  const prefix = `model.layers.${layer}.`;
  const normed = rmsNorm(tf, x, weight(weights, `${prefix}input_layernorm.weight`), config.rmsNormEps);
  const q = rotary(tf, linear(tf, normed, `${prefix}self_attn.q_proj`, weights), batch.rotary);
  const k = rotary(tf, linear(tf, normed, `${prefix}self_attn.k_proj`, weights), batch.rotary);
  const v = linear(tf, normed, `${prefix}self_attn.v_proj`, weights);
  const attended = attention(tf, q, k, v, batch.attention, config.headDim);
  const middle = plus(tf, x, linear(tf, attended, `${prefix}self_attn.o_proj`, weights));
  const normed2 = rmsNorm(tf, middle, weight(weights, `${prefix}post_attention_layernorm.weight`), config.rmsNormEps);
  const gate = linear(tf, normed2, `${prefix}mlp.gate_proj`, weights);
  const up = linear(tf, normed2, `${prefix}mlp.up_proj`, weights);
  return plus(tf, middle, linear(tf, swiGlu(tf, gate, up), `${prefix}mlp.down_proj`, weights));
}

/**
 * Hidden states after the final norm, [N, H].
 * @param checkpointing recompute each block in the backward pass instead of keeping its activations
 */
export function hiddenStates(
  tf: TF,
  config: ModelConfig,
  weights: NamedWeights,
  batch: Microbatch,
  checkpointing = false,
): Tensor2D {
  let x: Tensor = tf.gather(weight(weights, "model.embed_tokens.weight"), batch.ids);
  for (let layer = 0; layer < config.numLayers; layer++) {
    x = checkpointing
      ? checkpointedBlock(tf, config, x, layer, weights, batch)
      : block(tf, config, x, layer, weights, batch);
  }
  return rmsNorm(tf, x, weight(weights, "model.norm.weight"), config.rmsNormEps);
}

interface TapeState {
  activeTape: unknown;
}

/**
 * A block whose activations are forgotten and recomputed for the gradient (Chen et al. 2016).
 * Every trained weight of the block is an explicit input, or its gradient would be lost (under LoRA the adapters alone:
 * the gradient of the frozen base would be computed for nothing; the base must outlive the gradient); tfjs has one active tape, so the outer tape is put aside
 * while the inner gradient is taken.
 */
function checkpointedBlock(
  tf: TF,
  config: ModelConfig,
  x: Tensor,
  layer: number,
  weights: NamedWeights,
  batch: Microbatch,
): Tensor {
  const prefix = `model.layers.${layer}.`;
  const all = [...weights.tensors].filter(([name]) => name.startsWith(prefix));
  const names = all.flatMap(([name]) => (weights.lora === null || name.includes(".lora_") ? [name] : []));
  const run = (inputs: Tensor[]): Tensor => {
    const tensors = new Map([...all, ...names.map((name, i): [string, Tensor] => [name, inputs[i + 1]!])]);
    return block(tf, config, inputs[0]!, layer, { tensors, lora: weights.lora }, batch);
  };
  const inputs = [x, ...names.map((name) => weight(weights, name))];
  return customGrad(tf, inputs, (inputs, save) => {
    save(inputs);
    return {
      value: run(inputs),
      gradFunc: (dy, saved) => {
        const state = tf.engine().state as unknown as TapeState;
        const outer = state.activeTape;
        try {
          const { grads } = tf.engine().gradients(() => run(saved), saved, dy, true);
          return grads;
        } finally {
          state.activeTape = outer;
        }
      },
    };
  });
}

/**
 * Log-probabilities and entropies of the completion tokens.
 * @returns [M, 2], see `tokenLogprobs`
 */
export function completionLogprobs(
  tf: TF,
  config: ModelConfig,
  weights: NamedWeights,
  hidden: Tensor,
  batch: Microbatch,
  temperature: number,
  entropyGradient = false,
): Tensor2D {
  const head = weight(weights, config.tieWordEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  return tokenLogprobs(tf, tf.gather(hidden, batch.predictors), head, batch.packed.targets, temperature, {
    entropyGradient,
    frozenHead: weights.lora !== null,
  });
}

/** Values of the states before each completion token, [M]: hidden · w + b. */
export function completionValues(tf: TF, weights: NamedWeights, hidden: Tensor, rows: Tensor1D): Tensor1D {
  const states = tf.gather(hidden, rows) as Tensor2D;
  const column = tf.reshape(weight(weights, "value_head.weight"), [-1, 1]) as Tensor2D;
  return tf.reshape(tf.add(tf.matMul(states, column), weight(weights, "value_head.bias") as Scalar), [-1]) as Tensor1D;
}
