/**
 * The policy: Qwen2 / Llama as plain functions over named weights (design §7). Forward only;
 * gradients come from tfjs through the primitives. Knows no losses, no optimizer, no sockets.
 *
 * Legend: N packed tokens, M completion tokens (targets), H hidden.
 */
import type { Scalar, Tensor, Tensor1D, Tensor2D, TensorContainer } from "@tensorflow/tfjs";
import type { ModelConfig } from "../../model/config.js";
import type { LayoutEntry } from "../../model/layout.js";
import type { TF } from "../backend/backend.js";
import { packGroups, type PackedBatch, type SequenceGroup } from "./packing.js";
import {
  addGradient,
  attention,
  attentionTensors,
  customGrad,
  plus,
  product,
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
  /**
   * Adapters `<module>.lora_A.weight` [r, in] and `<module>.lora_B.weight` [out, r] are looked up
   * in `tensors`.
   */
  readonly lora: { readonly scale: number; readonly dropout: Dropout | null } | null;
}

/**
 * Dropout on the adapters' inputs. The seed makes a recomputed block (checkpointing) drop what its
 * first forward dropped.
 */
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

/**
 * Views of a flat buffer by name. Differentiable: the gradient of the views is one flat gradient.
 */
export function splitFlat(tf: TF, flat: Tensor, layout: readonly LayoutEntry[]): Map<string, Tensor> {
  const views = tf.tidy(() => {
    const parts =
      layout.length === 1
        ? [flat]
        : tf.split(
            flat as Tensor1D,
            layout.map((entry) => entry.size),
          );
    // A part that is a vector is its view; the flat buffer itself must not be, which outlives it.
    return layout.map(({ shape }, i) =>
      shape.length === 1 && layout.length > 1 ? parts[i]! : tf.reshape(parts[i]!, [...shape]),
    );
  });
  return new Map(layout.map((entry, i) => [entry.name, views[i]!]));
}

function weight(weights: NamedWeights, name: string): Tensor {
  const tensor = weights.tensors.get(name);
  if (tensor === undefined) throw new Error(`no weight named ${name}`);
  return tensor;
}

/**
 * y = x Wᵀ + b, plus the adapter's (drop(x) Aᵀ) Bᵀ · scale where the module has one (Hu et al.
 * 2021, eq. 3). Tidied: the terms are as large as the sum, and no gradient needs them.
 */
function linear(tf: TF, x: Tensor, module: string, weights: NamedWeights): Tensor2D {
  return tf.tidy(() => {
    let y = product(tf, x, weight(weights, `${module}.weight`), weights.lora !== null);
    const bias = weights.tensors.get(`${module}.bias`);
    if (bias !== undefined) y = plus(tf, y, bias);
    const a = weights.lora === null ? undefined : weights.tensors.get(`${module}.lora_A.weight`);
    if (weights.lora === null || a === undefined) return y;
    const { scale, dropout } = weights.lora;
    const input = dropout === null ? x : tf.dropout(x, dropout.rate, undefined, `${dropout.seed} ${module}`);
    const down = tf.mul(product(tf, input, a), scale);
    return plus(tf, y, product(tf, down, weight(weights, `${module}.lora_B.weight`)));
  });
}

/** First half of a decoder block: x + attention(norm(x)). x is [N, H]. */
function attentionHalf(
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
  return plus(tf, x, linear(tf, attended, `${prefix}self_attn.o_proj`, weights));
}

/** Second half: x + mlp(norm(x)), a function of each row alone. x is [N, H], or some rows of it. */
function mlpHalf(tf: TF, config: ModelConfig, x: Tensor, layer: number, weights: NamedWeights): Tensor {
  const prefix = `model.layers.${layer}.`;
  const normed = rmsNorm(tf, x, weight(weights, `${prefix}post_attention_layernorm.weight`), config.rmsNormEps);
  const gate = linear(tf, normed, `${prefix}mlp.gate_proj`, weights);
  const up = linear(tf, normed, `${prefix}mlp.up_proj`, weights);
  return plus(tf, x, linear(tf, swiGlu(tf, gate, up), `${prefix}mlp.down_proj`, weights));
}

/**
 * One decoder block whose activations stay for the gradient. Tidied: what the gradient needs is
 * kept by the tape, the rest would otherwise live until the last block is done.
 */
function block(
  tf: TF,
  config: ModelConfig,
  x: Tensor,
  layer: number,
  weights: NamedWeights,
  batch: Microbatch,
): Tensor {
  return tf.tidy(() => mlpHalf(tf, config, attentionHalf(tf, config, x, layer, weights, batch), layer, weights));
}

/**
 * Rows of an MLP that are recomputed at once, times its width (16 MiB as float32; about ten such
 * arrays exist at once).
 */
const MAX_MLP = 4 * 1024 * 1024;

/**
 * Hidden states after the final norm, [N, H].
 * @param checkpointing recompute each block in the backward pass instead of keeping its activations
 * @param maxMlp with checkpointing: elements of the MLP's arrays that are recomputed at once
 */
export function hiddenStates(
  tf: TF,
  config: ModelConfig,
  weights: NamedWeights,
  batch: Microbatch,
  checkpointing = false,
  maxMlp = MAX_MLP,
): Tensor2D {
  let x: Tensor = tf.gather(weight(weights, "model.embed_tokens.weight"), batch.ids);
  for (let layer = 0; layer < config.numLayers; layer++) {
    const next = checkpointing
      ? checkpointedBlock(tf, config, x, layer, weights, batch, maxMlp)
      : block(tf, config, x, layer, weights, batch);
    x.dispose(); // what a gradient needs of it, the tape holds
    x = next;
  }
  return rmsNorm(tf, x, weight(weights, "model.norm.weight"), config.rmsNormEps);
}

/**
 * One decoder block whose activations are forgotten and recomputed for the gradient, in halves: of
 * each half its input stays. Rows of the MLP do not see each other and are taken in parts, as its
 * arrays are several times the size of x.
 */
function checkpointedBlock(
  tf: TF,
  config: ModelConfig,
  x: Tensor,
  layer: number,
  weights: NamedWeights,
  batch: Microbatch,
  maxMlp: number,
): Tensor {
  const prefix = `model.layers.${layer}.`;
  const middle = checkpointed(
    tf,
    x,
    weights,
    [`${prefix}input_layernorm.`, `${prefix}self_attn.`],
    x.shape[0]!,
    (x, weights) => attentionHalf(tf, config, x, layer, weights, batch),
  );
  return checkpointed(
    tf,
    middle,
    weights,
    [`${prefix}post_attention_layernorm.`, `${prefix}mlp.`],
    Math.max(1, Math.floor(maxMlp / config.intermediateSize)),
    (x, weights) => mlpHalf(tf, config, x, layer, weights),
  );
}

interface TapeState {
  activeTape: unknown;
}

/**
 * run(x, weights), recomputed for the gradient instead of remembered (Chen et al. 2016). Every
 * trained weight of it is an explicit input, or its gradient would be lost (under LoRA the adapters
 * alone: the gradient of the frozen base would be computed for nothing; the base must outlive the
 * gradient); tfjs has one active tape, so the outer tape is put aside while the inner gradient is
 * taken.
 * @param x [N, H]
 * @param prefixes of the names of the weights that `run` looks up, all of them
 * @param rowsAtOnce rows of x that `run` sees at a time: fewer than N where it treats each row
 *   alone
 */
function checkpointed(
  tf: TF,
  x: Tensor,
  weights: NamedWeights,
  prefixes: readonly string[],
  rowsAtOnce: number,
  run: (x: Tensor, weights: NamedWeights) => Tensor,
): Tensor {
  const all = [...weights.tensors].filter(([name]) => prefixes.some((prefix) => name.startsWith(prefix)));
  const names = all.flatMap(([name]) => (weights.lora === null || name.includes(".lora_") ? [name] : []));
  const N = x.shape[0]!;
  const starts = Array.from({ length: Math.ceil(N / rowsAtOnce) }, (_, i) => i * rowsAtOnce);
  const rowsOf = (x: Tensor, start: number): Tensor =>
    starts.length === 1 ? x : tf.slice(x, [start, 0], [Math.min(rowsAtOnce, N - start), -1]);
  const joined = (parts: Tensor[]): Tensor => (parts.length === 1 ? parts[0]! : tf.concat(parts, 0));
  const runOn = (part: Tensor, trained: readonly Tensor[], start: number): Tensor => {
    const tensors = new Map([...all, ...names.map((name, i): [string, Tensor] => [name, trained[i]!])]);
    return run(part, { tensors, lora: withSeed(weights.lora, start) });
  };
  return customGrad(tf, [x, ...names.map((name) => weight(weights, name))], (inputs, save) => {
    save(inputs);
    const [x, ...trained] = inputs as [Tensor, ...Tensor[]];
    return {
      value: joined(starts.map((start) => tf.tidy(() => runOn(rowsOf(x, start), trained, start)))),
      gradFunc: (dy, saved) => {
        const [x, ...trained] = saved as [Tensor, ...Tensor[]];
        const state = tf.engine().state as unknown as TapeState;
        const outer = state.activeTape;
        let sums: Tensor[] | null = null;
        try {
          const dx = starts.map((start) => {
            const [dxPart, ...parts] = tf.tidy(() => {
              const inputs = [rowsOf(x, start), ...trained];
              const forward = (): Tensor => runOn(inputs[0]!, trained, start);
              return tf.engine().gradients(forward, inputs, rowsOf(dy, start), true).grads;
            }) as [Tensor, ...Tensor[]];
            const before: Tensor[] | null = sums;
            sums = before === null ? parts : before.map((sum, i) => addGradient(tf, sum, parts[i]!));
            return dxPart;
          });
          return [joined(dx), ...sums!];
        } finally {
          state.activeTape = outer;
        }
      },
    };
  });
}

/** Dropout of rows from `start` on: other rows drop other inputs. */
function withSeed(lora: NamedWeights["lora"], start: number): NamedWeights["lora"] {
  if (lora === null || lora.dropout === null || start === 0) return lora;
  return { ...lora, dropout: { ...lora.dropout, seed: `${lora.dropout.seed} ${start}` } };
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
