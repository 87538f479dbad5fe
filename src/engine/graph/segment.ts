/**
 * The segment graph: up to S decode steps of R rows in one run, as an ONNX Loop with sampling
 * inside.
 *
 * A row is one completion in flight. For attention to prompts, and only there, rows stand in Q
 * blocks of m places: the rows of a block share one prompt, whose keys and values are read once per
 * block, and places may be empty (they repeat a row, and nothing reads them). Attention has three
 * parts under one softmax:
 *   prompt   [Hkv, 1, Q, Tp, D]   shared by a block, constant in the segment
 *   past     [Hkv, 1, R, T, D]    generated in earlier segments, constant in the segment
 *   recent   [Hkv, 1, R, i+1, D]  generated in this segment, grows in the loop (so growing copies little)
 * The generated slots are right-aligned: all rows end at slot T, a row that entered late has unused
 * slots on the left, which the mask hides. Rows enter and leave between segments only (engine.ts).
 *
 * Shapes: see qwen2.ts; S steps, V vocabulary, K stop ids.
 */
import type { ModelConfig } from "../../model/config.js";
import { CPU_FLOAT32, headName, type Numeric } from "./numeric.js";
import { Graph, type DataType } from "./onnx.js";
import {
  addAndNorm,
  attentionWeights,
  cacheNames,
  declareRope,
  declareWeights,
  embed,
  linear,
  mlp,
  project,
  projectAttention,
  rmsNorm,
  timesTransposed,
} from "./qwen2.js";
import { sample, vocabularyBlocks } from "./sampling.js";
import { layerNames } from "./weights.js";

/** Rows of the rotary tables: indexed by row count as well as by position. */
function ropeRows(config: ModelConfig, maxRows: number, segmentLength: number): number {
  // Rows that are done keep decoding until the segment ends, beyond the last position.
  return Math.max(config.maxPositions + segmentLength, maxRows);
}

/**
 * Keys and values are `numeric.dtype`, called dtype here. Inputs besides weights and adapters:
 *   steps int64 []              most decode steps of this run
 *   prompt_k/v.<layer>          dtype [Hkv, 1, Q, Tp, D]
 *   past_k/v.<layer>            dtype [Hkv, 1, R, T ≥ 0, D]
 *   block_rows int64 [Q, m]     the row at each place of each block; any row at an empty place
 *   row_places int64 [R, 1]     where that is: block · m + place
 *   mask float32 [R, 1, Tp+T+S] added to the scores of each row
 *   token int64 [R, 1]          last token of each row, not yet fed
 *   position int64 [1, R]       its position
 *   budget int64 [R, 1]         tokens the row may still generate
 *   stop_ids int64 [R, K]       padded with -1
 *   inverse_temperature float32 [R, 1], greedy bool [R, 1]
 *   any_argmax bool [0 or 1]    of length 1 if any row needs its most probable token (as a length the host knows it)
 *   uniforms float32 [S, R, 1], forced int64 [S, R, 1]   see sampling.ts
 * Outputs: `tokens` int64 [S', R, 1], `logprobs` float32 [S', R, 1] with S' ≤ S (all rows done),
 * and of the most
 *   probable tokens `top_tokens` (meaningless unless any_argmax), `top_logprobs`; next_k/v.<layer>
 *   dtype [Hkv, 1, R, S', D], to be appended to `past`. What a row yields after its stop id or
 *   budget is noise.
 */
export function buildSegmentGraph(
  config: ModelConfig,
  maxRows: number,
  segmentLength: number,
  numeric: Numeric = CPU_FLOAT32,
): Uint8Array {
  const { numLayers: L, numHeads: Hq, numKvHeads: Hkv, headDim: D } = config;
  const { dtype } = numeric;
  const rep = Hq / Hkv;
  const g = Graph.create();
  declareWeights(g, config, numeric);
  const rope = declareRope(g, config, numeric, ropeRows(config, maxRows, segmentLength));
  const steps = g.input("steps", "int64", []);
  const blockRows = g.input("block_rows", "int64", ["Q", "m"]);
  const rowPlaces = g.input("row_places", "int64", ["R", 1]);
  const mask = g.input("mask", "float32", ["R", 1, "columns"]);
  const token = g.input("token", "int64", ["R", 1]);
  const position = g.input("position", "int64", [1, "R"]);
  const budget = g.input("budget", "int64", ["R", 1]);
  const stopIds = g.input("stop_ids", "int64", ["R", "K"]);
  const inverseTemperature = g.input("inverse_temperature", "float32", ["R", 1]);
  const greedy = g.input("greedy", "bool", ["R", 1]);
  const anyArgmax = g.cast(axis(g, g.input("any_argmax", "bool", ["any"]), 0), "int64", "bool");
  const uniforms = g.input("uniforms", "float32", ["S", "R", 1]);
  const forced = g.input("forced", "int64", ["S", "R", 1]);
  const layers = Array.from({ length: L }, (_, layer) => layer);
  const prompt = layers.map((layer) => declareCache(g, dtype, "prompt", layer, [Hkv, 1, "Q", "Tp", D]));
  const past = layers.map((layer) => declareCache(g, dtype, "past", layer, [Hkv, 1, "R", "T", D]));

  // Once per segment.
  const join = (...parts: string[]) => g.node("Concat", parts, { axis: { int: 0 } });
  const R = axis(g, token, 0);
  const places = g.int64([Hkv, rep, -1]);
  const arrangement: Arrangement = {
    blockRows,
    rowPlaces,
    promptQuery: join(g.int64([Hkv, rep]), g.node("Shape", [blockRows]), g.int64([D])), // [Hkv, rep, Q, m, D]
    promptScores: join(places, axis(g, prompt[0]!.k, 3)), // [Hkv, rep, R or Q·m, Tp]
    promptContext: join(places, g.int64([D])), // [Hkv, rep, Q·m, D]
    rowHeads: join(g.int64([Hkv, rep]), R, g.int64([1, -1])), // [Hkv, rep, R, 1, *]
    rowKeys: join(g.int64([Hkv, 1]), R, g.int64([1, -1])), // [Hkv, 1, R, 1, D]
  };
  const rowNumber = g.node("Range", [g.int64(0), g.node("Squeeze", [R]), g.int64(1)]);
  const blocks = g.int64(vocabularyBlocks(config.vocabSize).count);
  const blockOffset = g.node("Unsqueeze", [g.node("Mul", [rowNumber, blocks]), g.int64([1])]);
  const lastStep = g.node("Sub", [budget, g.int64(1)]);
  const notDone = g.node("Less", [budget, g.int64(0)]); // all false: `steps` ≥ 1 only when some row has budget
  const emptyShape = join(g.int64([Hkv, 1]), R, g.int64([0, D]));
  const empty = g.cast(g.node("ConstantOfShape", [emptyShape]), "float32", dtype);

  // One decode step.
  const b = g.subgraph();
  const i = b.input("step", "int64", []);
  b.input("go", "bool", []);
  const current = b.input("current", "int64");
  const done = b.input("done", "bool");
  const recent = layers.map((layer) => declareCache(b, dtype, "recent", layer));
  // Lengths are read off shapes, here and not before the loop: a shape is on the host, and so is
  // then what is computed of shapes, where Slice and Split want it. Of the counter i, or of values
  // from outside, CUDA would compute it on the device and copy it back at every step
  // (test/integration/cuda-placement.test.ts).
  const lengths = [
    axis(b, prompt[0]!.k, 3),
    axis(b, past[0]!.k, 3),
    b.node("Add", [axis(b, recent[0]!.k, 3), b.int64([1])]),
  ];
  const columns = lengths.reduce((sum, length) => b.node("Add", [sum, length]));
  const step: Step = {
    mask: b.node("Slice", [mask, b.int64([0]), columns, b.int64([2])]),
    lengths: b.node("Concat", lengths, { axis: { int: 0 } }),
  };
  const stepPosition = b.node("Add", [position, i]);

  const flat = b.node("Reshape", [current, b.int64([-1])]);
  let residual = embed(b, numeric, flat); // [R, H]
  let x = rmsNorm(b, config, numeric, residual, layerNames(0).inputNorm);
  const grown = layers.map((layer) => {
    const projected = projectAttention(b, config, numeric, x, layer); // [1, heads, R, D]: rows stand where RoPE has its sequence
    const rotated = b.node("com.microsoft::RotaryEmbedding", [projected.qk, stepPosition, rope.cos, rope.sin]);
    const q = b.fresh("q");
    const newKey = b.fresh("k");
    b.nodeTo([q, newKey], "Split", [rotated, b.int64([Hq, Hkv])], { axis: { int: 1 } });
    const append = (cache: string, rows: string) =>
      b.node("Concat", [cache, b.node("Reshape", [rows, arrangement.rowKeys])], { axis: { int: 3 } });
    const own = recent[layer]!;
    const k = append(own.k, newKey);
    const v = append(own.v, projected.v);
    const context = attend(b, numeric, arrangement, step, q, prompt[layer]!, past[layer]!, { k, v }); // [Hkv, rep, R, 1, D]
    const rows = b.node("Transpose", [context], { perm: { ints: [2, 0, 1, 3, 4] } });
    const names = layerNames(layer);
    const attention = project(b, numeric, b.node("Reshape", [rows, b.int64([-1, Hq * D])]), names.o);
    const middle = addAndNorm(b, config, numeric, { residual, delta: attention, weight: names.postNorm });
    const after = { residual: middle.residual, delta: mlp(b, numeric, middle.normed, layer) };
    const next =
      layer === L - 1
        ? { ...after, weight: "final_norm", type: "float32" as const }
        : { ...after, weight: layerNames(layer + 1).inputNorm };
    ({ normed: x, residual } = addAndNorm(b, config, numeric, next));
    return { k, v };
  });
  const logits = linear(b, numeric, x, headName(config, numeric));
  const chosen = sample(b, logits, config.vocabSize, {
    inverseTemperature,
    greedy,
    anyArgmax,
    uniform: b.node("Gather", [uniforms, i]),
    forced: b.node("Gather", [forced, i]),
    blockOffset,
  });

  const isStop = b.node("Cast", [b.node("Equal", [chosen.token, stopIds])], { to: { int: 6 } });
  const stopped = b.node("Cast", [b.node("ReduceMax", [isStop, b.int64([1])])], { to: { int: 9 } });
  const spent = b.node("LessOrEqual", [lastStep, i]);
  const nowDone = b.node("Or", [b.node("Or", [done, stopped]), spent]);
  const allDone = b.node("ReduceMin", [b.node("Cast", [nowDone], { to: { int: 6 } })], { keepdims: { int: 0 } });
  b.output(b.node("Equal", [allDone, b.int32(0)]), "bool");
  b.output(chosen.token, "int64");
  b.output(nowDone, "bool");
  for (const { k, v } of grown) {
    b.output(k, dtype);
    b.output(v, dtype);
  }
  b.output(b.node("Identity", [chosen.token]), "int64");
  b.output(chosen.logprob, "float32");
  b.output(b.node("Identity", [chosen.topToken]), "int64");
  b.output(chosen.topLogprob, "float32");

  const grownNames = layers.flatMap((layer) => Object.values(cacheNames("next", layer)));
  const unused = [g.fresh("token"), g.fresh("done")];
  const initial = [token, notDone, ...grownNames.map(() => empty)];
  const chosenNames = ["tokens", "logprobs", "top_tokens", "top_logprobs"];
  g.nodeTo([...unused, ...grownNames, ...chosenNames], "Loop", [steps, "", ...initial], { body: { graph: b } });
  for (const name of chosenNames) g.output(name, name.endsWith("tokens") ? "int64" : "float32", ["steps", "R", 1]);
  for (const name of grownNames) g.output(name, dtype, [Hkv, 1, "R", "steps", D]);
  return g.encodeModel();
}

/** [1]: one dimension of a tensor. */
function axis(g: Graph, tensor: string, index: number): string {
  return g.node("Shape", [tensor], { start: { int: index }, end: { int: index + 1 } });
}

interface Cache {
  readonly k: string;
  readonly v: string;
}

interface Step {
  /** [R, 1, Tp + T + i + 1] */
  readonly mask: string;
  /** [3]: key counts of the three parts */
  readonly lengths: string;
}

/** Of rows in blocks, and the shapes that go with it. */
interface Arrangement {
  readonly blockRows: string;
  readonly rowPlaces: string;
  readonly promptQuery: string;
  readonly promptScores: string;
  readonly promptContext: string;
  readonly rowHeads: string;
  readonly rowKeys: string;
}

function declareCache(
  g: Graph,
  dtype: DataType,
  prefix: string,
  layer: number,
  dims?: readonly (number | string)[],
): Cache {
  const names = cacheNames(prefix, layer);
  g.input(names.k, dtype, dims);
  g.input(names.v, dtype, dims);
  return names;
}

/**
 * Attention of one query per row over the three parts, one softmax over all of them: [Hkv, rep, R,
 * 1, D]. Every product broadcasts over `rep`, so grouped queries copy no keys.
 */
function attend(
  b: Graph,
  numeric: Numeric,
  at: Arrangement,
  step: Step,
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
  const weights = attentionWeights(b, numeric, scores, step.mask);
  const [onPrompt, onPast, onRecent] = [b.fresh("w_prompt"), b.fresh("w_past"), b.fresh("w_recent")];
  b.nodeTo([onPrompt, onPast, onRecent], "Split", [weights, step.lengths], { axis: { int: -1 } });
  const fromPrompt = b.node("MatMul", [byBlock(reshape(onPrompt, at.promptScores)), prompt.v]);
  return b.node("Sum", [
    byRow(reshape(fromPrompt, at.promptContext)),
    b.node("MatMul", [onPast, past.v]),
    b.node("MatMul", [onRecent, recent.v]),
  ]);
}
