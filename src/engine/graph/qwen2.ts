/**
 * A Qwen2 / Llama decoder's blocks as ONNX nodes (transformers' modeling_qwen2.py), and the prefill
 * graph. Heads are the outermost axis, so only the attention output is transposed.
 *
 * Shapes: N rows (tokens), H hidden, Hq query heads, Hkv key/value heads, rep = Hq / Hkv, D head
 * size, P prompts, Tp their padded length.
 */
import type { ModelConfig } from "../../model/config.js";
import { rotaryCosSin } from "../../model/rotary.js";
import { int8Product } from "./int8.js";
import { CPU_FLOAT32, type Numeric, weightDtype } from "./numeric.js";
import { WEIGHTS_FILE, beyondPrefill, byteLength, storedWeights } from "./weight-file.js";
import { Graph, type DataType } from "./onnx.js";
import { layerNames, weightViews } from "./weights.js";

/** Added to the score of a position that must not be seen; exp() of it is exactly 0. */
export const MASKED = -1e30;

/** @param unused names of initializers to leave out (inputs are fed to every graph alike) */
export function declareWeights(
  g: Graph,
  shape: ModelConfig,
  numeric: Numeric,
  unused: ReadonlySet<string> = new Set(),
): void {
  if (numeric.weights === "inputs") {
    for (const view of weightViews(shape, numeric.fused)) g.input(view.name, "float32", view.shape);
  } else {
    for (const weight of storedWeights(shape, weightDtype(numeric), numeric.fused === true).filter(
      ({ name }) => !unused.has(name),
    )) {
      const { name, dtype: type, shape: dims, position } = weight;
      g.externalTensor({ name, type, dims, file: WEIGHTS_FILE, position, bytes: byteLength(weight) });
    }
  }
  for (const { a, b } of numeric.adapters) {
    g.input(a.name, numeric.dtype, a.shape);
    g.input(b.name, numeric.dtype, b.shape);
  }
}

/**
 * cos and sin [rows, D/2] by position, times D^(-1/4): q and k each carry half of the scale
 * 1/sqrt(D). That keeps every matmul at alpha = 1, MLAS's fast path for one row.
 */
export function declareRope(g: Graph, shape: ModelConfig, { dtype }: Numeric, rows: number) {
  const positions = Array.from({ length: rows }, (_, position) => position);
  const { cos, sin } = rotaryCosSin(positions, shape, shape.headDim ** -0.25);
  const dims = [rows, shape.headDim / 2];
  return {
    cos: g.cast(g.tensor("rope_cos", dims, cos), "float32", dtype),
    sin: g.cast(g.tensor("rope_sin", dims, sin), "float32", dtype),
  };
}

/** a · bᵀ over the last two axes. */
export function timesTransposed(g: Graph, a: string, b: string): string {
  return g.node("com.microsoft::FusedMatMul", [a, b], { transB: { int: 1 } });
}

/** Heads and their size, where a weight is a stack of heads. */
type Stack = readonly [heads: number, headDim: number];

/**
 * x · Wᵀ with W [out, in], or with a `stack` of heads: [1, heads, N, D]. MLAS copies a second
 * operand that is no initializer. `weightsFirst` multiplies W · xᵀ instead: 1.5 to 1.8 times faster
 * at 16 rows, slower at one.
 */
export function linear(g: Graph, numeric: Numeric, x: string, weight: string, stack?: Stack): string {
  if (numeric.int8 === true) {
    const product = int8Product(g, x, weight);
    return stack === undefined ? product : byHead(g, product, stack);
  }
  if (numeric.weightsFirst !== true) return timesTransposed(g, x, weight);
  return turned(g, timesTransposed(g, weight, x), stack === undefined ? 2 : 4);
}

/** Its last two axes exchanged. */
function turned(g: Graph, x: string, rank = 2): string {
  const perm = Array.from({ length: rank }, (_, axis) => axis);
  return g.node("Transpose", [x], { perm: { ints: [...perm.slice(0, -2), rank - 1, rank - 2] } });
}

/** The model's linear layer: `linear`, and its LoRA beside it: x · (W + B · A)ᵀ. */
function project(g: Graph, numeric: Numeric, x: string, weight: string, stack?: Stack): string {
  const base = linear(g, numeric, x, weight, stack);
  const adapter = numeric.adapters.find((input) => input.weight === weight);
  if (adapter === undefined) return base;
  return g.node("Add", [base, timesTransposed(g, timesTransposed(g, x, adapter.a.name), adapter.b.name)]);
}

/** Embeddings of `ids`, as the float32 residual stream. */
export function embed(g: Graph, { dtype }: Numeric, ids: string): string {
  return g.cast(g.node("Gather", ["embedding", ids]), dtype, "float32");
}

/** RMSNorm of the residual stream, as the input of a linear layer. */
export function normOf(g: Graph, shape: ModelConfig, { dtype }: Numeric, x: string, weight: string): string {
  const normed = g.node("SimplifiedLayerNormalization", [x, weight], {
    axis: { int: -1 },
    epsilon: { float: shape.rmsNormEps },
    stash_type: { int: 1 },
  });
  return g.cast(normed, "float32", dtype);
}

/**
 * A block after its attention [N, Hq · D]: the output projection, the MLP, and the next block's
 * norm; after the last block the final norm, in float32 for the head.
 */
export function closeBlock(
  g: Graph,
  shape: ModelConfig,
  numeric: Numeric,
  { residual, attended, layer }: { readonly residual: string; readonly attended: string; readonly layer: number },
) {
  const { o, postNorm } = layerNames(layer);
  const attention = project(g, numeric, attended, o);
  const middle = addAndNorm(g, shape, numeric, { residual, delta: attention, weight: postNorm });
  const delta = mlp(g, shape, numeric, middle.normed, layer);
  const next =
    layer === shape.numLayers - 1
      ? { weight: "final_norm", type: "float32" as const }
      : { weight: layerNames(layer + 1).inputNorm };
  return addAndNorm(g, shape, numeric, { residual: middle.residual, delta, ...next });
}

/** residual + delta, and its RMSNorm as `type`. */
function addAndNorm(
  g: Graph,
  shape: ModelConfig,
  { dtype }: Numeric,
  { residual, delta, weight, type = dtype }: { residual: string; delta: string; weight: string; type?: DataType },
) {
  const normed = g.fresh("normed");
  const sum = g.fresh("residual");
  const inputs = [g.cast(delta, dtype, "float32"), residual, weight];
  g.nodeTo([normed, "", "", sum], "com.microsoft::SkipSimplifiedLayerNormalization", inputs, {
    epsilon: { float: shape.rmsNormEps },
  });
  return { normed: g.cast(normed, "float32", type), residual: sum };
}

/** SwiGLU: down(silu(gate(x)) · up(x)). With `weightsFirst` only the last product is turned. */
function mlp(g: Graph, { intermediateSize: I }: ModelConfig, numeric: Numeric, x: string, layer: number): string {
  const names = layerNames(layer);
  const silu = (gate: string) => g.node("com.microsoft::QuickGelu", [gate], { alpha: { float: 1 } });
  if (numeric.fused === true) {
    const [gate, up] = [g.fresh("gate"), g.fresh("up")];
    g.nodeTo([gate, up], "Split", [project(g, numeric, x, names.gateUp), g.int64([I, I])], { axis: { int: -1 } });
    return project(g, numeric, g.node("Mul", [silu(gate), up]), names.down);
  }
  const isTurned = numeric.weightsFirst === true;
  const inner = (weight: string) => (isTurned ? timesTransposed(g, weight, x) : project(g, numeric, x, weight));
  const gated = g.node("Mul", [silu(inner(names.gate)), inner(names.up)]);
  return isTurned ? turned(g, g.node("MatMul", [names.down, gated])) : project(g, numeric, gated, names.down);
}

const biasedBy = (g: Graph, { qkvBias }: ModelConfig, projected: string, layer: number): string =>
  qkvBias ? g.node("Add", [projected, layerNames(layer).qkvBias]) : projected;

/** With fused weights: unrotated q, k and v of x [N, H] side by side, [N, (Hq + 2 Hkv) · D]. */
export const projectRows = (g: Graph, shape: ModelConfig, numeric: Numeric, x: string, layer: number): string =>
  biasedBy(g, shape, project(g, numeric, x, layerNames(layer).qkv), layer);

/** Rows [N, heads · D] as [1, heads, N, D]. */
const byHead = (g: Graph, rows: string, stack: Stack): string =>
  g.node("Transpose", [g.node("Reshape", [rows, g.int64([1, -1, ...stack])])], { perm: { ints: [0, 2, 1, 3] } });

/** Projects x [N, H] to unrotated queries and keys [1, Hq + Hkv, N, D], values [1, Hkv, N, D]. */
export function projectAttention(g: Graph, shape: ModelConfig, numeric: Numeric, x: string, layer: number) {
  const heads = [shape.numHeads + 2 * shape.numKvHeads, shape.headDim] as const;
  const biased =
    numeric.fused === true
      ? byHead(g, projectRows(g, shape, numeric, x, layer), heads)
      : biasedBy(g, shape, project(g, numeric, x, layerNames(layer).qkv, heads), layer);
  const [qk, v] = [g.fresh("qk"), g.fresh("v")];
  const sizes = g.int64([shape.numHeads + shape.numKvHeads, shape.numKvHeads]);
  g.nodeTo([qk, v], "Split", [biased, sizes], { axis: { int: 1 } });
  return { qk, v };
}

/** Names of one layer's key and value tensors, as inputs or outputs. */
export function cacheNames(prefix: string, layer: number): { k: string; v: string } {
  return { k: `${prefix}_k.${layer}`, v: `${prefix}_v.${layer}` };
}

/** Softmax of `scores` + `mask` in float32: a float16 sum of thousands would lose small ones. */
export function attentionWeights(g: Graph, { dtype }: Numeric, scores: string, mask: string): string {
  const masked = g.node("Add", [g.cast(scores, dtype, "float32"), mask]);
  return g.cast(g.node("Softmax", [masked], { axis: { int: -1 } }), "float32", dtype);
}

/**
 * Prefill: `ids` int64 [P, Tp] right-padded → `prompt_k.<layer>` (rotated, scaled) and
 * `prompt_v.<layer>`, `numeric.dtype` [Hkv, P, Tp, D]. Padding's entries are finite and
 * meaningless. The decode loop takes a prompt's last token, so there is no LM head.
 */
export function buildPrefillGraph(shape: ModelConfig, numeric: Numeric = CPU_FLOAT32): Uint8Array {
  const { numHeads: Hq, numKvHeads: Hkv, headDim: D, hiddenSize: H } = shape;
  const rep = Hq / Hkv;
  const g = new Graph();
  declareWeights(g, shape, numeric, beyondPrefill(shape, weightDtype(numeric)));
  const ids = g.input("ids", "int64", ["P", "Tp"]);
  const rope = declareRope(g, shape, numeric, shape.maxPositions);

  const idsShape = g.node("Shape", [ids]); // [P, Tp]
  const join = (...parts: string[]) => g.node("Concat", parts, { axis: { int: 0 } });
  const headsShape = join(g.int64([-1]), idsShape, g.int64([D]));
  const queryShape = join(g.int64([Hkv, rep]), idsShape, g.int64([D]));
  const keyShape = join(g.int64([Hkv, 1]), idsShape, g.int64([D]));
  const length = g.node("Gather", [idsShape, g.int64(1)]);
  const steps = g.node("Range", [g.int64(0), length, g.int64(1)]);
  const future = g.node("Less", [g.node("Unsqueeze", [steps, g.int64([1])]), steps]);
  const causal = g.node("Where", [future, g.float(MASKED), g.float(0)]); // [Tp, Tp]

  let residual = g.node("Reshape", [embed(g, numeric, ids), g.int64([-1, H])]);
  let x = normOf(g, shape, numeric, residual, layerNames(0).inputNorm);
  for (let layer = 0; layer < shape.numLayers; layer++) {
    const { qk, v } = projectAttention(g, shape, numeric, x, layer);
    const stacked = g.node("Reshape", [qk, headsShape]); // [Hq + Hkv, P, Tp, D]
    const rotated = g.node("com.microsoft::RotaryEmbedding", [stacked, g.int64([0]), rope.cos, rope.sin]);
    const q = g.fresh("q");
    const cache = cacheNames("prompt", layer);
    g.nodeTo([q, cache.k], "Split", [rotated, g.int64([Hq, Hkv])], { axis: { int: 0 } });
    g.nodeTo([cache.v], "Reshape", [v, headsShape]); // [Hkv, P, Tp, D]
    g.output(cache.k, numeric.dtype, [Hkv, "P", "Tp", D]);
    g.output(cache.v, numeric.dtype, [Hkv, "P", "Tp", D]);
    if (layer === shape.numLayers - 1) break; // the rest of the last layer would only feed the LM head

    const scores = timesTransposed(g, g.node("Reshape", [q, queryShape]), g.node("Reshape", [cache.k, keyShape]));
    const weights = attentionWeights(g, numeric, scores, causal);
    const context = g.node("MatMul", [weights, g.node("Reshape", [cache.v, keyShape])]); // [Hkv, rep, P, Tp, D]
    const rows = g.node("Transpose", [context], { perm: { ints: [2, 3, 0, 1, 4] } });
    const attended = g.node("Reshape", [rows, g.int64([-1, Hq * D])]);
    ({ normed: x, residual } = closeBlock(g, shape, numeric, { residual, attended, layer }));
  }
  return g.encodeModel();
}
