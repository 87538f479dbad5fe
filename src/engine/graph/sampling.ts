/**
 * Sampling inside the graph: a two-level inverse CDF.
 *
 * The vocabulary is cut into `count` blocks of `width` (about sqrt(V) each). Block sums and a short
 * CumSum choose the block, a second CumSum inside it chooses the token: no pass over the vocabulary
 * is sequential, and no CumSum axis is long (ONNX Runtime's CUDA kernel is quadratic in it).
 */
import { DATA_TYPE, type Graph } from "./onnx.js";

export interface VocabularyBlocks {
  readonly count: number;
  readonly width: number;
}

/**
 * Cuts a vocabulary: exactly (no padding) when it has a divisor within a factor 4 of its square
 * root, else into ceil(sqrt(V)) blocks with a padded tail. Both sides stay ≤ 1,024 for V ≤ 2^20.
 */
export function vocabularyBlocks(vocabSize: number): VocabularyBlocks {
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
 * Chooses one token per row of `logits` [R, V]. Returns `token` int64 [R, 1] and `logprob` float32
 * [R, 1] = log softmax(logits / temperature)[token], nats; and of the most probable token
 * `topToken` int64 [R, 1] (meaningless without `anyArgmax`) and `topLogprob` float32 [R, 1].
 */
export function sample(g: Graph, logits: string, vocabSize: number, rows: SamplingRows) {
  const { count, width } = vocabularyBlocks(vocabSize);
  const last = { axis: { int: 1 } };
  const z = g.node("Mul", [logits, rows.inverseTemperature]);
  const max = g.node("ReduceMax", [z, g.int64([1])], { keepdims: { int: 1 } });
  let e = g.node("Exp", [g.node("Sub", [z, max])]);
  // Padding has weight 0, and the first index whose running sum EXCEEDS the target never has weight
  // 0.
  const padding = count * width - vocabSize;
  // Pad's value is left at its default, 0. An explicit 0 would be the same constant as Max's below,
  // which CUDA needs on the device while Pad needs it on the host.
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
  // The running sum inside the block and the block's sum differ by rounding: keep the target in [0,
  // its end).
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

/**
 * int64 [R, 1]: the first column of `sums` [R, C] above `target` [R, 1], as the number of columns
 * that are not: running sums of weights never fall. (ArgMax would have to take the first of equals,
 * which cuDNN does not promise.)
 */
function firstAbove(g: Graph, sums: string, target: string): string {
  const notAbove = g.node("Cast", [g.node("LessOrEqual", [sums, target])], { to: { int: DATA_TYPE.float32 } });
  const count = g.node("ReduceSum", [notAbove, g.int64([1])], { keepdims: { int: 1 } });
  return g.node("Cast", [count], { to: { int: DATA_TYPE.int64 } });
}
