/**
 * The decode loop with one operator for attention (GroupQueryAttention of ONNX Runtime, which
 * rotates, appends, and takes the softmax in float32). A row's prompt and completion lie in one
 * cache [R, Hkv, T, D], left-aligned; prompts are not shared. A GPU likes it: a layer's attention
 * is one launch. On a CPU every step would copy every cache. Shapes: see qwen2.ts, decode-loop.ts.
 */
import type { ModelConfig } from "../../model/config.js";
import { decodeLoop, declareLoopInputs, axis, type LoopStep } from "./decode-loop.js";
import { headName, type Numeric, weightDtype } from "./numeric.js";
import { Graph } from "./onnx.js";
import { cacheNames, closeBlock, declareRope, declareWeights, embed, linear, normOf, projectRows } from "./qwen2.js";
import { layerNames } from "./weights.js";

/**
 * Builds the graph for `fused` weights. Keys and values are `numeric.dtype`, called dtype here. Its
 * inputs besides weights, adapters and those of `declareLoopInputs`:
 *   past_k/v.<layer>       dtype [R, Hkv, T ≥ 1, D]; what lies beyond a row's length is never read
 *   lengths int32 [R]      tokens of each row that are in the cache: the position of its next one
 * Its outputs besides those of `decodeLoop`:
 *   next_k/v.<layer>       dtype [R, Hkv, S', D], to be appended to each row
 */
export function buildGroupedSegmentGraph(shape: ModelConfig, segmentLength: number, numeric: Numeric): Uint8Array {
  const { numLayers, numKvHeads: Hkv, headDim: D } = shape;
  const { dtype } = numeric;
  const g = new Graph();
  declareWeights(g, shape, numeric);
  // rows that are done decode beyond the last position
  const rope = declareRope(g, shape, numeric, shape.maxPositions + segmentLength);
  const inputs = declareLoopInputs(g);
  const lengths = g.input("lengths", "int32", ["R"]);
  const names = Array.from({ length: numLayers }, (_, layer) => layer).flatMap((layer) =>
    (["k", "v"] as const).map((part) => ({
      past: cacheNames("past", layer)[part],
      grown: g.fresh("grown"),
      next: cacheNames("next", layer)[part],
    })),
  );
  for (const { past } of names) g.input(past, dtype, ["R", Hkv, "T", D]);
  const dims = ["R", Hkv, "slots", D];
  const caches = { initial: names.map(({ past }) => past), final: names.map(({ grown }) => grown), dtype, dims };
  decodeLoop(g, shape, inputs, caches, (b, at) => forward(b, shape, numeric, lengths, rope, at));

  // Of the grown caches [R, Hkv, T + S', D] each row's new tokens, which lie behind its own length.
  const steps = g.node("Range", [g.int64(0), g.node("Squeeze", [axis(g, "tokens", 0)]), g.int64(1)]);
  const first = g.node("Unsqueeze", [g.cast(lengths, "int32", "int64"), g.int64([1])]);
  const places = g.node("Unsqueeze", [g.node("Add", [first, steps]), g.int64([2])]); // [R, S', 1]
  for (const { grown, next } of names) {
    const byToken = g.node("Transpose", [grown], { perm: { ints: [0, 2, 1, 3] } });
    const taken = g.node("GatherND", [byToken, places], { batch_dims: { int: 1 } }); // [R, S', Hkv, D]
    g.nodeTo([next], "Transpose", [taken], { perm: { ints: [0, 2, 1, 3] } });
    g.output(next, dtype, ["R", Hkv, "steps", D]);
  }
  return g.encodeModel();
}

function forward(
  b: Graph,
  shape: ModelConfig,
  numeric: Numeric,
  lengths: string,
  rope: ReturnType<typeof declareRope>,
  { current, step, caches }: LoopStep,
) {
  const { numLayers: L, numHeads: Hq, numKvHeads: Hkv, headDim: D } = shape;
  const toInt32 = { to: { int: 6 } };
  // The longest row's tokens with this one, read from a shape: it stays on the host.
  const total = b.node("Cast", [b.node("Add", [axis(b, caches[0]!, 2), b.int64([1])])], toInt32);
  const before = b.node("Add", [lengths, b.node("Cast", [step], toInt32)]);
  let residual = embed(b, numeric, b.node("Reshape", [current, b.int64([-1])])); // [R, H]
  let x = normOf(b, shape, numeric, residual, layerNames(0).inputNorm);
  const grown = Array.from({ length: L }, (_, layer) => {
    const rows = projectRows(b, shape, numeric, x, layer);
    const qkv = b.node("Reshape", [rows, b.int64([-1, 1, (Hq + 2 * Hkv) * D])]);
    const [attended, k, v] = [b.fresh("attended"), b.fresh("k"), b.fresh("v")];
    const past = [caches[2 * layer]!, caches[2 * layer + 1]!];
    b.nodeTo(
      [attended, k, v],
      "com.microsoft::GroupQueryAttention",
      [qkv, "", "", ...past, before, total, rope.cos, rope.sin],
      // the tables carry the scale (declareRope), so that keys are the prefill's
      { num_heads: { int: Hq }, kv_num_heads: { int: Hkv }, do_rotary: { int: 1 }, scale: { float: 1 } },
    );
    ({ normed: x, residual } = closeBlock(b, shape, numeric, {
      residual,
      attended: b.node("Reshape", [attended, b.int64([-1, Hq * D])]),
      layer,
    }));
    return [k, v];
  });
  return { logits: linear(b, numeric, x, headName(shape, weightDtype(numeric))), caches: grown.flat() };
}
