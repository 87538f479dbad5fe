/**
 * Whether the CUDA provider has a kernel for all that the decode loop does: nodes without one would
 * run on the CPU, with a copy there and back for every token. The table is what the pinned
 * onnxruntime registers (test/reference/ort_cuda_kernels.py); test/verify/cuda-placement.mjs lets
 * onnxruntime itself place the nodes. Nothing runs on CUDA in either.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { describe, expect, it } from "vitest";
import { adapterInputs } from "../../src/engine/graph/adapters.js";
import { buildGroupedSegmentGraph } from "../../src/engine/graph/grouped-segment.js";
import { isFused, type Numeric } from "../../src/engine/graph/numeric.js";
import { DATA_TYPE } from "../../src/engine/graph/onnx.js";
import { buildPrefillGraph } from "../../src/engine/graph/qwen2.js";
import { buildSegmentGraph } from "../../src/engine/graph/segment.js";
import { parseModelConfig, type ModelConfig } from "../../src/model/config.js";
import { decodeModel, decodeOpsets, type OnnxGraph, type OnnxNode } from "../support/onnx-decode.js";

/** Kernels of the operator's version that our graphs mean. */
interface Operator {
  /** Type parameters ("T") or types ("tensor(int64)") in order; the last one may repeat. */
  inputs: string[];
  outputs: string[];
  /** Types by type parameter. A parameter that is not there takes any. */
  kernels: Record<string, string>[];
}
const table = JSON.parse(readFileSync(new URL("../golden/ort_cuda_kernels.json", import.meta.url), "utf8")) as {
  onnxruntime: string;
  opsets: Record<string, number>;
  operators: Record<string, Operator>;
};

/** As the table names them. */
const TYPE_NAMES = new Map<number, string>(
  Object.entries(DATA_TYPE).map(([name, code]) => [code, name === "float32" ? "float" : name] as const),
);
const { float32: FLOAT, int64: INT64, bool: BOOL } = DATA_TYPE;
const COMPARISONS = new Set(["Less", "LessOrEqual", "Greater", "Equal", "Or"]);

/**
 * Inputs that CUDA kernels want in CPU memory (`InputMemoryType(OrtMemTypeCPUInput, …)` in
 * onnxruntime's sources), and the nodes of the loop that make them: a few integers a step, shapes
 * and lengths that change with it.
 */
const HOST_INPUTS: Record<string, readonly number[]> = {
  Reshape: [1],
  Slice: [1, 2, 3, 4],
  Split: [1],
  CumSum: [1],
  Pad: [1, 2],
  If: [0],
  Unsqueeze: [1],
  ReduceMax: [1],
  ReduceMin: [1],
  ReduceSum: [1],
  "com.microsoft::GroupQueryAttention": [6],
};
/** In the decode loop of float16. */
const FUSED_HOST_NODES: Record<string, string> = {
  "Cast → com.microsoft::GroupQueryAttention": "length of the longest row with this step's token",
  "Add → Cast → com.microsoft::GroupQueryAttention": "the same",
  "Shape → Add → Cast → com.microsoft::GroupQueryAttention": "length of the caches, which grow",
};
/** In that of float32. */
const HOST_NODES: Record<string, string> = {
  "Add → Slice": "end of the mask's columns that exist at this step: the sum of the three lengths",
  "Add → Add → Slice": "two of them",
  "Shape → Add → Add → Slice": "lengths, on the host whatever the tensor",
  "Concat → Split": "lengths of the three parts of attention at this step",
  "Add → Concat → Split": "length of the part that grows",
  "Shape → Concat → Split": "lengths",
  "Shape → Add → Concat → Split": "length of the part that grows, before this step",
};

/** Types of every value of a graph and its subgraphs, by what each operator returns. */
function inferTypes(graph: OnnxGraph, outer: ReadonlyMap<string, number>): Map<string, number> {
  const types = new Map([...outer, ...graph.types]);
  const of = (name: string) => types.get(name);
  for (const node of graph.nodes) {
    const inside = node.subgraphs.map((subgraph) => ({ subgraph, types: inferTypes(subgraph, types) }));
    let result: (number | undefined)[];
    if (node.op === "Cast") result = [node.to];
    else if (COMPARISONS.has(node.op)) result = [BOOL];
    else if (node.op === "ArgMax" || node.op === "Shape") result = [INT64];
    else if (node.op === "ConstantOfShape") result = [FLOAT];
    else if (node.op === "Where") result = [of(node.inputs[1]!)];
    else if (inside.length > 0) {
      const { outputs } = inside[0]!.subgraph;
      result = outputs.slice(node.op === "Loop" ? 1 : 0).map(({ type }) => type);
    } else result = node.outputs.map(() => of(node.inputs[0]!));
    node.outputs.forEach((output, i) => types.set(output, result[i] ?? result[0]!));
    for (const { subgraph, types: found } of inside) {
      // What a subgraph declares is what it computes.
      for (const { name, type } of subgraph.outputs) expect(found.get(name), `${node.op}: ${name}`).toBe(type);
      for (const [name, type] of found) types.set(name, type);
    }
  }
  return types;
}

const nodesOf = (graph: OnnxGraph): OnnxNode[] =>
  graph.nodes.flatMap((node) => [node, ...node.subgraphs.flatMap(nodesOf)]);

/** Null when CUDA has a kernel for the node, else what is missing. */
function missing(node: OnnxNode, types: ReadonlyMap<string, number>): string | null {
  const named = (names: readonly string[]) =>
    names.map((name) => (name === "" ? "" : TYPE_NAMES.get(types.get(name)!)!));
  const [inputs, outputs] = [named(node.inputs), named(node.outputs)];
  const what = `${node.op}(${inputs.join(", ")}) → ${outputs.join(", ")}`;
  const operator = table.operators[node.op];
  if (operator === undefined) return what;
  const fit = (kernel: Record<string, string>, found: string[], parameters: string[]) =>
    found.every((type, i) => {
      const parameter = parameters[i] ?? parameters.at(-1)!;
      const allowed = /^tensor\((\w+)\)$/.exec(parameter)?.[1] ?? kernel[parameter];
      return type === "" || allowed === undefined || allowed.split(" ").includes(type);
    });
  const found = operator.kernels.some(
    (kernel) => fit(kernel, inputs, operator.inputs) && fit(kernel, outputs, operator.outputs),
  );
  return found ? null : what;
}

const shape = {
  vocab_size: 151936,
  hidden_size: 2048,
  intermediate_size: 11008,
  num_hidden_layers: 2,
  num_attention_heads: 16,
  num_key_value_heads: 2,
};
const target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const variants = (["float16", "float32"] as const).flatMap((dtype) =>
  (["qwen2", "llama"] as const).flatMap((type) =>
    [true, false].map((lora) => {
      const config = parseModelConfig({ ...shape, model_type: type, tie_word_embeddings: type === "qwen2" }, "test");
      const spec = { r: 16, lora_alpha: 32, lora_dropout: 0, target_modules };
      const fused = isFused(config, dtype);
      const adapters = lora ? adapterInputs(config, spec, fused) : [];
      const numeric: Numeric = { dtype, fused, weights: "initializers", adapters };
      return { name: `${dtype}, ${type}, ${lora ? "LoRA" : "whole policies"}`, config, numeric };
    }),
  ),
);

const decodeGraphOf = (config: ModelConfig, numeric: Numeric): Uint8Array =>
  numeric.fused === true ? buildGroupedSegmentGraph(config, 4, numeric) : buildSegmentGraph(config, 8, 4, numeric);

describe.each(variants)("CUDA has a kernel for every node: $name", ({ config, numeric }) => {
  const segment = decodeModel(decodeGraphOf(config, numeric));
  const types = inferTypes(segment, new Map());
  const loop = segment.nodes.find(({ op }) => op === "Loop")!;
  const body = nodesOf(loop.subgraphs[0]!);

  it("in the decode loop, branches included", () => {
    expect(body.length).toBeGreaterThan(60);
    const behind = segment.nodes.filter(({ op }) => op === "GatherND" || op === "Transpose");
    expect([...body, ...behind].map((node) => missing(node, types)).filter((what) => what !== null)).toEqual([]);
    expect(missing(loop, types)).toBeNull();
  });

  it("in the prefill graph", () => {
    const prefill = decodeModel(buildPrefillGraph(config, numeric));
    const found = inferTypes(prefill, new Map());
    expect(
      nodesOf(prefill)
        .map((node) => missing(node, found))
        .filter((what) => what !== null),
    ).toEqual([]);
  });

  it("what the loop computes for the host is the lengths that change with the step, and nothing else", () => {
    const producer = new Map(
      body.flatMap((node) => node.outputs.filter((output) => output !== "").map((output) => [output, node] as const)),
    );
    const reasons = new Set<string>();
    const visit = (name: string, path: string): void => {
      const node = producer.get(name);
      if (node === undefined) return; // made before the loop, or its counter
      const here = `${node.op} → ${path}`;
      reasons.add(here);
      for (const input of node.inputs) visit(input, here);
    };
    for (const node of body) for (const i of HOST_INPUTS[node.op] ?? []) visit(node.inputs[i] ?? "", node.op);
    const expected = numeric.fused === true ? FUSED_HOST_NODES : HOST_NODES;
    expect([...reasons].sort()).toEqual(Object.keys(expected).sort());
  });

  it("no choice of a token rests on which of equal maxima ArgMax takes", () => {
    // cuDNN, which computes it, does not say. The greedy token may be any of the most probable
    // ones.
    const argmax = body.filter(({ op }) => op === "ArgMax");
    expect(argmax).toHaveLength(1);
    expect(loop.subgraphs[0]!.nodes.filter(({ op }) => op === "ArgMax")).toEqual([]);
  });
});

it("the table is of the onnxruntime that is installed, and of the operator sets that the graphs name", () => {
  const { version } = createRequire(import.meta.url)("onnxruntime-node/package.json") as { version: string };
  expect(table.onnxruntime).toBe(version);
  const { config, numeric } = variants[0]!;
  for (const model of [buildPrefillGraph(config, numeric), decodeGraphOf(config, numeric)])
    expect(decodeOpsets(model)).toEqual(table.opsets);
});

it("an operator or a type that CUDA lacks is found", () => {
  const node = { name: "", op: "Or", inputs: ["a", "b"], outputs: ["c"], to: undefined, subgraphs: [] };
  const types = (type: number) =>
    new Map([
      ["a", type],
      ["b", type],
      ["c", BOOL],
    ]);
  expect(missing(node, types(BOOL))).toBeNull();
  expect(missing(node, types(INT64))).toBe("Or(int64, int64) → bool");
  expect(missing({ ...node, op: "StringConcat" }, types(BOOL))).toBe("StringConcat(bool, bool) → bool");
});
