/**
 * Decode steps of R rows in one run: an ONNX Loop with sampling inside, whatever the attention.
 * Shapes: S steps, V vocabulary, K stop ids.
 */
import type { ModelConfig } from "../../model/config.js";
import { type DataType, type Dim, type Graph } from "./onnx.js";
import { sample, vocabularyBlocks } from "./sampling.js";

/**
 * Inputs of every decode graph:
 *   steps int64 []              most decode steps of this run
 *   token int64 [R, 1]          last token of each row, not yet fed
 *   budget int64 [R, 1]         tokens the row may still generate
 *   stop_ids int64 [R, K]       padded with -1
 *   inverse_temperature float32 [R, 1], greedy bool [R, 1]
 *   any_argmax bool [0 or 1]    of length 1 if any row needs its most probable token: the host
 *                               knows a length without reading the device
 *   uniforms float32 [S, R, 1], forced int64 [S, R, 1]   see sampling.ts
 */
export function declareLoopInputs(g: Graph) {
  return {
    steps: g.input("steps", "int64", []),
    token: g.input("token", "int64", ["R", 1]),
    budget: g.input("budget", "int64", ["R", 1]),
    stopIds: g.input("stop_ids", "int64", ["R", "K"]),
    inverseTemperature: g.input("inverse_temperature", "float32", ["R", 1]),
    greedy: g.input("greedy", "bool", ["R", 1]),
    anyArgmax: g.cast(axis(g, g.input("any_argmax", "bool", ["any"]), 0), "int64", "bool"),
    uniforms: g.input("uniforms", "float32", ["S", "R", 1]),
    forced: g.input("forced", "int64", ["S", "R", 1]),
  };
}

export interface Caches {
  /** Before the first step, in the order of the layers: keys, then values of each. */
  readonly initial: readonly string[];
  /** Names after the last step. */
  readonly final: readonly string[];
  readonly dtype: DataType;
  /** Their shape; the loop may let a named dimension grow. */
  readonly dims?: readonly Dim[];
}

/** What a step is given, in the loop's own graph. */
export interface LoopStep {
  /** [R, 1] tokens to be fed */
  readonly current: string;
  /** int64 []: number of the step */
  readonly step: string;
  /** Caches of before this step. */
  readonly caches: readonly string[];
}

/**
 * Adds the loop, whose outputs are these; S' ≤ S is smaller when all rows are done:
 *   tokens int64 [S', R, 1], logprobs float32 [S', R, 1]
 *   top_tokens, top_logprobs    the most probable tokens; meaningless unless any_argmax
 * What a row yields after its stop id or budget is noise.
 * @param forward the decoder over one token of each row: logits [R, V], and caches with that token
 */
export function decodeLoop(
  g: Graph,
  { vocabSize }: ModelConfig,
  inputs: ReturnType<typeof declareLoopInputs>,
  { initial, final, dtype, dims }: Caches,
  forward: (b: Graph, at: LoopStep) => { readonly logits: string; readonly caches: readonly string[] },
): void {
  const R = axis(g, inputs.token, 0);
  const rowNumber = g.node("Range", [g.int64(0), g.node("Squeeze", [R]), g.int64(1)]);
  const blocks = g.int64(vocabularyBlocks(vocabSize).count);
  const blockOffset = g.node("Unsqueeze", [g.node("Mul", [rowNumber, blocks]), g.int64([1])]);
  const lastStep = g.node("Sub", [inputs.budget, g.int64(1)]);
  // all false: `steps` ≥ 1 only when some row has budget
  const notDone = g.node("Less", [inputs.budget, g.int64(0)]);

  const b = g.subgraph();
  const step = b.input("step", "int64", []);
  b.input("go", "bool", []);
  const current = b.input("current", "int64");
  const done = b.input("done", "bool");
  const before = initial.map((_, i) => b.input(`cache.${i}`, dtype, dims));
  const { logits, caches } = forward(b, { current, step, caches: before });
  const chosen = sample(b, logits, vocabSize, {
    inverseTemperature: inputs.inverseTemperature,
    greedy: inputs.greedy,
    anyArgmax: inputs.anyArgmax,
    uniform: b.node("Gather", [inputs.uniforms, step]),
    forced: b.node("Gather", [inputs.forced, step]),
    blockOffset,
  });
  const isStop = b.node("Cast", [b.node("Equal", [chosen.token, inputs.stopIds])], { to: { int: 6 } });
  const stopped = b.node("Cast", [b.node("ReduceMax", [isStop, b.int64([1])])], { to: { int: 9 } });
  const spent = b.node("LessOrEqual", [lastStep, step]);
  const nowDone = b.node("Or", [b.node("Or", [done, stopped]), spent]);
  const allDone = b.node("ReduceMin", [b.node("Cast", [nowDone], { to: { int: 6 } })], { keepdims: { int: 0 } });
  b.output(b.node("Equal", [allDone, b.int32(0)]), "bool");
  b.output(chosen.token, "int64");
  b.output(nowDone, "bool");
  for (const name of caches) b.output(name, dtype);
  b.output(b.node("Identity", [chosen.token]), "int64");
  b.output(chosen.logprob, "float32");
  b.output(b.node("Identity", [chosen.topToken]), "int64");
  b.output(chosen.topLogprob, "float32");

  const unused = [g.fresh("token"), g.fresh("done")];
  const names = ["tokens", "logprobs", "top_tokens", "top_logprobs"];
  g.nodeTo([...unused, ...final, ...names], "Loop", [inputs.steps, "", inputs.token, notDone, ...initial], {
    body: { graph: b },
  });
  for (const name of names) g.output(name, name.endsWith("tokens") ? "int64" : "float32", ["steps", "R", 1]);
}

/** [1]: one dimension of a tensor. */
export function axis(g: Graph, tensor: string, index: number): string {
  return g.node("Shape", [tensor], { start: { int: index }, end: { int: index + 1 } });
}
