/**
 * Sampling in the graph: a two-level inverse CDF over `count` blocks of `width` (about sqrt(V)
 * each). No CumSum axis is long: ONNX Runtime's CUDA kernel is quadratic in it.
 */
import { DATA_TYPE, type Graph } from "./onnx.js";

/** Exact where a divisor allows, else with a padded tail; both sides stay ≤ 1,024 for V ≤ 2^20. */
export function vocabularyBlocks(vocabSize: number): { count: number; width: number } {
  const root = Math.ceil(Math.sqrt(vocabSize));
  for (let count = root; count * 4 >= root; count--) {
    const width = vocabSize / count;
    if (Number.isInteger(width) && width <= 1024) return { count, width };
  }
  return { count: Math.ceil(vocabSize / root), width: root };
}

export interface SamplingRows {
  /** float32 [R, 1]: 1 / temperature (1 for greedy rows). */
  readonly inverseTemperature: string;
  /** bool [R, 1] */
  readonly greedy: string;
  /** bool [1]: whether any row needs its most probable token; else the argmax is skipped. */
  readonly anyArgmax: string;
  /** float32 [R, 1] in [0, 1), multiples of 2^-24 */
  readonly uniform: string;
  /** int64 [R, 1]: the token to take instead of sampling, -1 = sample */
  readonly forced: string;
  /** int64 [R, 1]: row number × number of blocks */
  readonly blockOffset: string;
}

/**
 * Chooses one token per row of `logits` [R, V]: `token` int64, `logprob` float32 in nats, at the
 * temperature. Also `topToken` (meaningless without `anyArgmax`) and `topLogprob`; all are [R, 1].
 */
export function sample(g: Graph, logits: string, vocabSize: number, rows: SamplingRows) {
  const { count, width } = vocabularyBlocks(vocabSize);
  const last = { axis: { int: 1 } };
  const z = g.node("Mul", [logits, rows.inverseTemperature]);
  const max = g.node("ReduceMax", [z, g.int64([1])], { keepdims: { int: 1 } });
  let e = g.node("Exp", [g.node("Sub", [z, max])]);
  // Padding has weight 0; the first index whose sum EXCEEDS the target never has weight 0.
  const padding = count * width - vocabSize;
  // An explicit 0 would be Max's constant below: CUDA needs it on the device, Pad on the host.
  if (padding > 0) e = g.node("Pad", [e, g.int64([0, 0, 0, padding])]);
  const blocks = g.node("Reshape", [e, g.int64([-1, count, width])]);
  const sums = g.node("ReduceSum", [blocks, g.int64([2])], { keepdims: { int: 0 } }); // [R, count]
  const ends = g.node("CumSum", [sums, g.int64(1)]);
  const total = g.node("Slice", [ends, g.int64([count - 1]), g.int64([count]), g.int64([1])]); // [R, 1]

  // u ≤ 1 - 2^-24, so in float32 u · total < total: some block ends beyond the target.
  const target = g.node("Mul", [rows.uniform, total]);
  const block = firstAbove(g, ends, target);
  const start = g.node("Sub", [
    g.node("GatherElements", [ends, block], last),
    g.node("GatherElements", [sums, block], last),
  ]);
  const inBlock = g.node("Gather", [
    g.node("Reshape", [e, g.int64([-1, width])]),
    g.node("Reshape", [g.node("Add", [block, rows.blockOffset]), g.int64([-1])]),
  ]); // [R, width]
  const inner = g.node("CumSum", [inBlock, g.int64(1)]);
  // The block's sum and its running sum differ by rounding: keep the target in [0, its end).
  const innerEnd = g.node("Slice", [inner, g.int64([width - 1]), g.int64([width]), g.int64([1])]);
  const belowEnd = g.node("Mul", [innerEnd, g.float(1 - 2 ** -22)]);
  const innerTarget = g.node("Max", [g.node("Min", [g.node("Sub", [target, start]), belowEnd]), g.float(0)]);
  const sampled = g.node("Add", [g.node("Mul", [block, g.int64(width)]), firstAbove(g, inner, innerTarget)]);

  const thenGraph = g.subgraph();
  const argmax = thenGraph.node("ArgMax", [z], { axis: { int: 1 } });
  thenGraph.output(argmax, "int64");
  const elseGraph = g.subgraph();
  elseGraph.output(elseGraph.node("Identity", [sampled]), "int64");
  const topToken = g.node("If", [rows.anyArgmax], {
    then_branch: { graph: thenGraph },
    else_branch: { graph: elseGraph },
  });

  const free = g.node("Less", [rows.forced, g.int64(0)]);
  const chosen = g.node("Where", [rows.greedy, topToken, sampled]);
  const token = g.node("Where", [free, chosen, rows.forced]);
  const centred = g.node("Sub", [g.node("GatherElements", [z, token], last), max]);
  const logTotal = g.node("Log", [total]);
  // The largest centred logit is 0.
  return { token, logprob: g.node("Sub", [centred, logTotal]), topToken, topLogprob: g.node("Neg", [logTotal]) };
}

/** First column of `sums` [R, C] above `target` [R, 1]; cuDNN's ArgMax may not take the first. */
function firstAbove(g: Graph, sums: string, target: string): string {
  const notAbove = g.node("Cast", [g.node("LessOrEqual", [sums, target])], { to: { int: DATA_TYPE.float32 } });
  const count = g.node("ReduceSum", [notAbove, g.int64([1])], { keepdims: { int: 1 } });
  return g.node("Cast", [count], { to: { int: DATA_TYPE.int64 } });
}
