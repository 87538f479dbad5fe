/**
 * The decode loop with attention in three parts under one softmax. For attention to prompts, rows
 * stand in Q blocks of m places; a block reads its prompt once. An empty place repeats a row, and
 * nothing reads it. The parts:
 *   prompt   [Hkv, 1, Q, Tp, D]   shared by a block, constant in the segment
 *   past     [Hkv, 1, R, T, D]    generated in earlier segments, constant in the segment
 *   recent   [Hkv, 1, R, i+1, D]  generated in this segment; only this small part grows in the loop
 * Generated slots are right-aligned; the mask hides a late row's unused slots on the left. Shapes:
 * see qwen2.ts and decode-loop.ts.
 */
import type { ModelConfig } from "../../model/config.js";
import { axis, decodeLoop, declareLoopInputs } from "./decode-loop.js";
import { CPU_FLOAT32, headName, type Numeric, weightDtype } from "./numeric.js";
import { Graph, type DataType, type Dim } from "./onnx.js";
import {
  attentionWeights,
  cacheNames,
  closeBlock,
  declareRope,
  declareWeights,
  embed,
  linear,
  normOf,
  projectAttention,
  timesTransposed,
} from "./qwen2.js";
import { layerNames } from "./weights.js";

/**
 * Builds the graph. Keys and values are `numeric.dtype`, called dtype here. Its inputs besides
 * weights, adapters and those of `declareLoopInputs`:
 *   prompt_k/v.<layer>          dtype [Hkv, 1, Q, Tp, D]
 *   past_k/v.<layer>            dtype [Hkv, 1, R, T ≥ 0, D]
 *   block_rows int64 [Q, m]     the row at each place of each block; any row at an empty place
 *   row_places int64 [R, 1]     where that is: block · m + place
 *   mask float32 [R, 1, Tp+T+S] added to the scores of each row
 *   position int64 [1, R]       position of each row's token
 * Its outputs besides those of `decodeLoop`:
 *   next_k/v.<layer>            dtype [Hkv, 1, R, S', D], to be appended to `past`
 */
export function buildSegmentGraph(
  shape: ModelConfig,
  maxRows: number,
  segmentLength: number,
  numeric: Numeric = CPU_FLOAT32,
): Uint8Array {
  const { numKvHeads: Hkv, headDim: D } = shape;
  const { dtype } = numeric;
  const g = new Graph();
  declareWeights(g, shape, numeric);
  // Indexed by row count as well as by position; rows that are done decode beyond the last one.
  const rope = declareRope(g, shape, numeric, Math.max(shape.maxPositions + segmentLength, maxRows));
  const inputs = declareInputs(g, shape, numeric);
  const layers = inputs.past.map((_, layer) => layer);

  const arrangement = arrange(g, shape, inputs, axis(g, inputs.token, 0));
  const emptyShape = concat(g, [g.int64([Hkv, 1]), axis(g, inputs.token, 0), g.int64([0, D])]);
  const empty = g.cast(g.node("ConstantOfShape", [emptyShape]), "float32", dtype);
  const final = layers.flatMap((layer) => Object.values(cacheNames("next", layer)));
  decodeLoop(g, shape, inputs, { initial: final.map(() => empty), final, dtype }, (b, { current, step, caches }) => {
    const recent = layers.map((layer): Cache => ({ k: caches[2 * layer]!, v: caches[2 * layer + 1]! }));
    const { logits, grown } = forward(b, shape, numeric, { inputs, arrangement, rope, recent, current, step });
    return { logits, caches: grown.flatMap(({ k, v }) => [k, v]) };
  });
  for (const name of final) g.output(name, dtype, [Hkv, 1, "R", "steps", D]);
  return g.encodeModel();
}

function declareInputs(g: Graph, shape: ModelConfig, { dtype }: Numeric) {
  const { numLayers, numKvHeads: Hkv, headDim: D } = shape;
  const layers = Array.from({ length: numLayers }, (_, layer) => layer);
  return {
    ...declareLoopInputs(g),
    blockRows: g.input("block_rows", "int64", ["Q", "m"]),
    rowPlaces: g.input("row_places", "int64", ["R", 1]),
    mask: g.input("mask", "float32", ["R", 1, "columns"]),
    position: g.input("position", "int64", [1, "R"]),
    prompt: layers.map((layer) => declareCache(g, dtype, "prompt", layer, [Hkv, 1, "Q", "Tp", D])),
    past: layers.map((layer) => declareCache(g, dtype, "past", layer, [Hkv, 1, "R", "T", D])),
  };
}

type Inputs = ReturnType<typeof declareInputs>;

/** Shapes in which rows, and rows in blocks, are multiplied; computed once per segment. */
function arrange(g: Graph, shape: ModelConfig, { blockRows, rowPlaces, prompt }: Inputs, R: string) {
  const { numHeads: Hq, numKvHeads: Hkv, headDim: D } = shape;
  const rep = Hq / Hkv;
  const places = g.int64([Hkv, rep, -1]);
  return {
    blockRows,
    rowPlaces,
    promptQuery: concat(g, [g.int64([Hkv, rep]), g.node("Shape", [blockRows]), g.int64([D])]), // [Hkv, rep, Q, m, D]
    promptScores: concat(g, [places, axis(g, prompt[0]!.k, 3)]), // [Hkv, rep, R or Q·m, Tp]
    promptContext: concat(g, [places, g.int64([D])]), // [Hkv, rep, Q·m, D]
    rowHeads: concat(g, [g.int64([Hkv, rep]), R, g.int64([1, -1])]), // [Hkv, rep, R, 1, *]
    rowKeys: concat(g, [g.int64([Hkv, 1]), R, g.int64([1, -1])]), // [Hkv, 1, R, 1, D]
  };
}

type Arrangement = ReturnType<typeof arrange>;

interface StepInputs {
  readonly inputs: Inputs;
  readonly arrangement: Arrangement;
  readonly rope: ReturnType<typeof declareRope>;
  /** Keys and values of this segment's earlier steps. */
  readonly recent: readonly Cache[];
  /** [R, 1] tokens to be fed */
  readonly current: string;
  readonly step: string;
}

/** The decoder over one token of each row: logits [R, V], and `recent` with the new step. */
function forward(b: Graph, shape: ModelConfig, numeric: Numeric, at: StepInputs) {
  const { numHeads: Hq, numKvHeads: Hkv, headDim: D } = shape;
  const { inputs, arrangement, rope, recent, current, step } = at;
  const { prompt, past } = inputs;
  // Shapes read in here are on the host. Lengths from outside the loop, or of its counter, CUDA
  // would copy back at every step (test/integration/cuda-placement.test.ts).
  const lengths = [
    axis(b, prompt[0]!.k, 3),
    axis(b, past[0]!.k, 3),
    b.node("Add", [axis(b, recent[0]!.k, 3), b.int64([1])]),
  ];
  const columns = lengths.reduce((sum, length) => b.node("Add", [sum, length]));
  const visible = {
    /** [R, 1, Tp + T + i + 1] */
    mask: b.node("Slice", [inputs.mask, b.int64([0]), columns, b.int64([2])]),
    /** [3]: key counts of the three parts */
    lengths: concat(b, lengths),
  };
  const stepPosition = b.node("Add", [inputs.position, step]);

  const flat = b.node("Reshape", [current, b.int64([-1])]);
  let residual = embed(b, numeric, flat); // [R, H]
  let x = normOf(b, shape, numeric, residual, layerNames(0).inputNorm);
  const grown = recent.map((own, layer) => {
    // [1, heads, R, D]: rows stand where RoPE has its sequence
    const projected = projectAttention(b, shape, numeric, x, layer);
    const rotated = b.node("com.microsoft::RotaryEmbedding", [projected.qk, stepPosition, rope.cos, rope.sin]);
    const q = b.fresh("q");
    const newKey = b.fresh("k");
    b.nodeTo([q, newKey], "Split", [rotated, b.int64([Hq, Hkv])], { axis: { int: 1 } });
    const append = (cache: string, rows: string) =>
      b.node("Concat", [cache, b.node("Reshape", [rows, arrangement.rowKeys])], { axis: { int: 3 } });
    const k = append(own.k, newKey);
    const v = append(own.v, projected.v);
    // [Hkv, rep, R, 1, D]
    const context = attend(b, numeric, arrangement, visible, q, prompt[layer]!, past[layer]!, { k, v });
    const rows = b.node("Transpose", [context], { perm: { ints: [2, 0, 1, 3, 4] } });
    const attended = b.node("Reshape", [rows, b.int64([-1, Hq * D])]);
    ({ normed: x, residual } = closeBlock(b, shape, numeric, { residual, attended, layer }));
    return { k, v };
  });
  return { logits: linear(b, numeric, x, headName(shape, weightDtype(numeric))), grown };
}

function concat(g: Graph, parts: readonly string[]): string {
  return g.node("Concat", [...parts], { axis: { int: 0 } });
}

type Cache = ReturnType<typeof cacheNames>;

function declareCache(g: Graph, dtype: DataType, prefix: string, layer: number, dims?: readonly Dim[]): Cache {
  const names = cacheNames(prefix, layer);
  g.input(names.k, dtype, dims);
  g.input(names.v, dtype, dims);
  return names;
}

/** One softmax over three parts: [Hkv, rep, R, 1, D]. Products broadcast over `rep`, uncopied. */
function attend(
  b: Graph,
  numeric: Numeric,
  at: Arrangement,
  visible: { readonly mask: string; readonly lengths: string },
  q: string,
  prompt: Cache,
  past: Cache,
  recent: Cache,
): string {
  const byBlock = (rows: string) => b.node("Gather", [rows, at.blockRows], { axis: { int: 2 } });
  const byRow = (places: string) => b.node("Gather", [places, at.rowPlaces], { axis: { int: 2 } });
  const reshape = (x: string, shape: string) => b.node("Reshape", [x, shape]);
  const queryByBlock = reshape(byBlock(q), at.promptQuery);
  const queryByRow = reshape(q, at.rowHeads);
  const scores = b.node(
    "Concat",
    [
      byRow(reshape(timesTransposed(b, queryByBlock, prompt.k), at.promptScores)),
      timesTransposed(b, queryByRow, past.k),
      timesTransposed(b, queryByRow, recent.k),
    ],
    { axis: { int: -1 } },
  );
  const weights = attentionWeights(b, numeric, scores, visible.mask);
  const [onPrompt, onPast, onRecent] = [b.fresh("w_prompt"), b.fresh("w_past"), b.fresh("w_recent")];
  b.nodeTo([onPrompt, onPast, onRecent], "Split", [weights, visible.lengths], { axis: { int: -1 } });
  const fromPrompt = b.node("MatMul", [byBlock(reshape(onPrompt, at.promptScores)), prompt.v]);
  return b.node("Sum", [
    byRow(reshape(fromPrompt, at.promptContext)),
    b.node("MatMul", [onPast, past.v]),
    b.node("MatMul", [onRecent, recent.v]),
  ]);
}
