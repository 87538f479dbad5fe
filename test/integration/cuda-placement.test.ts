/**
 * Where the pinned ONNX Runtime with its CUDA provider places the nodes of the actor's graphs, and
 * what a decode step copies. onnxruntime-node itself says so, with the provider of PyPI's
 * onnxruntime-gpu of the same version and a stand-in of CUDA. The stand-in computes nothing: this
 * shows placement only, and nothing has run on CUDA.
 *
 *   python3 -m venv venv                                                               (250 MB)
 *   venv/bin/pip install --no-deps -r test/reference/requirements-ort-cuda.txt
 *   FINELLAMA_ORT_CUDA=venv/bin/python npx vitest run test/integration/cuda-placement.test.ts
 */
import { execFileSync, spawnSync } from "node:child_process";
import {
  closeSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WEIGHTS_FILE, byteLength, storedWeights } from "../../src/engine/graph/weight-file.js";
import { adapterInputs } from "../../src/engine/graph/adapters.js";
import { type Numeric } from "../../src/engine/graph/numeric.js";
import { buildPrefillGraph } from "../../src/engine/graph/qwen2.js";
import { buildSegmentGraph } from "../../src/engine/graph/segment.js";
import { parseModelConfig } from "../../src/model/config.js";
import { decodeModel, type OnnxGraph, type OnnxNode } from "../support/onnx-decode.js";

const python = process.env["FINELLAMA_ORT_CUDA"];
const why = python === undefined ? " (skipped: FINELLAMA_ORT_CUDA names no Python with onnxruntime-gpu)" : "";
const root = fileURLToPath(new URL("../..", import.meta.url));

const [R, Q, Tp, T, S, K] = [8, 2, 5, 3, 4, 1];
const shape = {
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
};
const target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const spec = { r: 16, lora_alpha: 32, lora_dropout: 0, target_modules };
const variants = (["float16", "float32"] as const).flatMap((dtype) =>
  (["qwen2", "llama"] as const).flatMap((type) =>
    [true, false].map((lora) => {
      // 509 is padded when it is cut into blocks, as Qwen2.5's vocabulary is; 512 is not
      const vocabulary = type === "qwen2" ? { vocab_size: 509, tie_word_embeddings: true } : { vocab_size: 512 };
      const config = parseModelConfig({ ...shape, ...vocabulary, model_type: type }, "test");
      const numeric: Numeric = { dtype, weights: "initializers", adapters: lora ? adapterInputs(config, spec) : [] };
      return { name: `${dtype}, ${type}, ${lora ? "LoRA" : "whole policies"}`, config, numeric };
    }),
  ),
);

/** Inputs of the segment graph but `steps`, as segment.ts lists them. */
function segmentInputs({ config, numeric }: (typeof variants)[number]): [string, string, number[]][] {
  const { numLayers, numKvHeads, headDim } = config;
  const adapters = numeric.adapters.flatMap(({ a, b }) => [a, b]);
  const caches = Array.from({ length: numLayers }, (_, layer) =>
    ["k", "v"].flatMap((kind): [string, string, number[]][] => [
      [`prompt_${kind}.${layer}`, numeric.dtype, [numKvHeads, 1, Q, Tp, headDim]],
      [`past_${kind}.${layer}`, numeric.dtype, [numKvHeads, 1, R, T, headDim]],
    ]),
  );
  return [
    ...adapters.map(({ name, shape: dims }): [string, string, number[]] => [name, numeric.dtype, [...dims]]),
    ...caches.flat(),
    ["block_rows", "int64", [Q, Math.ceil(R / Q)]],
    ["row_places", "int64", [R, 1]],
    ["mask", "float32", [R, 1, Tp + T + S]],
    ["token", "int64", [R, 1]],
    ["position", "int64", [1, R]],
    ["budget", "int64", [R, 1]],
    ["stop_ids", "int64", [R, K]],
    ["inverse_temperature", "float32", [R, 1]],
    ["greedy", "bool", [R, 1]],
    ["any_argmax", "bool", [1]],
    ["uniforms", "float32", [S, R, 1]],
    ["forced", "int64", [S, R, 1]],
  ];
}

const nodesOf = (graph: OnnxGraph): OnnxNode[] =>
  graph.nodes.flatMap((node) => [node, ...node.subgraphs.flatMap(nodesOf)]);
const constantsOf = (graph: OnnxGraph): string[] => [
  ...graph.constants,
  ...graph.nodes.flatMap((node) => node.subgraphs.flatMap(constantsOf)),
];

/** Nodes by provider, as onnxruntime's log lists them. */
function placements(log: string): Map<string, { op: string; name: string }[]> {
  const found = new Map<string, { op: string; name: string }[]>();
  let list: { op: string; name: string }[] = [];
  for (const line of log.split("\n").filter((each) => each.includes("VerifyEachNodeIsAssignedToAnEp]"))) {
    const provider = /(?:placed on|nodes placed on) \[(\w+)\]/.exec(line)?.[1];
    const node = /\]\s+(\w+) \((\S*)\)$/.exec(line);
    if (provider !== undefined) found.set(provider, (list = []));
    else if (node !== null) list.push({ op: node[1]!, name: node[2]! });
  }
  return found;
}

/** Copies from device to host in the run of so many steps. */
function copiesToHost(log: string, steps: number): number[] {
  const part = log.slice(log.indexOf(`run ${steps}\n`), log.indexOf(`ran ${steps}\n`));
  return [...part.matchAll(/^copy to-host (\d+)$/gm)].map((match) => Number(match[1]));
}

describe.skipIf(python === undefined)(`nodes of the actor's graphs on CUDA${why}`, () => {
  let folder = "";

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "cuda-placement-"));
    const standIn = join(folder, "stand-in");
    execFileSync(python!, [join(root, "test/reference/cuda_stand_in.py"), standIn]);
    // A copy of onnxruntime-node with the provider beside its library.
    const installed = dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
    const copy = join(folder, "node_modules", "onnxruntime-node");
    const bin = join("bin", "napi-v6", "linux", "x64");
    mkdirSync(join(copy, bin), { recursive: true });
    for (const part of ["package.json", "dist", bin])
      cpSync(join(installed, part), join(copy, part), { recursive: true });
    symlinkSync(join(installed, "..", "onnxruntime-common"), join(copy, "..", "onnxruntime-common"));
    for (const library of ["libonnxruntime_providers_cuda.so", "libonnxruntime_providers_shared.so"]) {
      rmSync(join(copy, bin, library), { force: true });
      symlinkSync(join(standIn, library), join(copy, bin, library));
    }
  }, 60_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** What a session of the graph writes to stderr. */
  function logOf(variant: (typeof variants)[number], model: Uint8Array, inputs?: [string, string, number[]][]): string {
    const { config, numeric } = variant;
    const last = storedWeights(config, numeric.dtype).at(-1)!;
    writeFileSync(join(folder, WEIGHTS_FILE), "");
    truncateSync(join(folder, WEIGHTS_FILE), last.position + byteLength(last));
    const path = join(folder, "model.onnx");
    writeFileSync(path, model);
    const args = [join(root, "test/fixtures/cuda-session.mjs"), folder, path];
    if (inputs !== undefined) args.push(JSON.stringify(inputs));
    const env = { ...process.env, LD_LIBRARY_PATH: join(folder, "stand-in"), CUDA_STAND_IN_COPIES: "1" };
    // To a file: Node makes a pipe non-blocking, and what native code writes to a full one is lost.
    const file = join(folder, "log");
    const fd = openSync(file, "w");
    const { status } = spawnSync(process.execPath, args, { env, stdio: ["ignore", "ignore", fd] });
    closeSync(fd);
    const log = readFileSync(file, "utf8");
    expect(status, log.slice(-2000)).toBe(0);
    return log;
  }

  /** Checks where the nodes are; returns how many are on CUDA. */
  function checkPlacement(model: Uint8Array, log: string): number {
    const placed = placements(log);
    expect([...placed.keys()].sort()).toEqual(["CPUExecutionProvider", "CUDAExecutionProvider"]);
    const graph = decodeModel(model);
    const byName = new Map(nodesOf(graph).map((node) => [node.name, node]));
    const producers = new Map(nodesOf(graph).flatMap((node) => node.outputs.map((output) => [output, node] as const)));
    const constants = new Set(constantsOf(graph));
    // A kernel's Shape result is on the host, and ONNX Runtime lets the CPU go on from there.
    const followsFromShapes = (value: string): boolean => {
      const producer = producers.get(value);
      if (producer === undefined) return constants.has(value);
      return producer.op === "Shape" || producer.inputs.every(followsFromShapes);
    };
    for (const { op, name } of placed.get("CPUExecutionProvider")!) {
      const node = byName.get(name);
      expect(node?.op, `${op} (${name})`).toBe(op);
      expect(node!.inputs.every(followsFromShapes), `${op} (${name})`).toBe(true);
    }
    expect(log).not.toMatch(/Add Memcpy(To|From)Host/);
    return placed.get("CUDAExecutionProvider")!.length;
  }

  it.each(variants)("prefill, $name: the CPU computes with lengths alone", (variant) => {
    const model = buildPrefillGraph(variant.config, variant.numeric);
    expect(checkPlacement(model, logOf(variant, model))).toBeGreaterThan(30);
  });

  it.each(variants)(
    "decode loop, $name: the CPU computes with lengths alone, one byte a step leaves the device",
    (v) => {
      const model = buildSegmentGraph(v.config, R, S, v.numeric);
      const log = logOf(v, model, segmentInputs(v));
      expect(checkPlacement(model, log)).toBeGreaterThan(100);
      const [two, four] = [copiesToHost(log, 2), copiesToHost(log, 4)];
      // Outputs come once in a run, however long it is; what each step adds is the loop's
      // condition.
      expect(two.length).toBeGreaterThan(2);
      expect(four.length - two.length).toBe(2);
      expect([two, four].map((copies) => copies.filter((bytes) => bytes === 1).length)).toEqual([2, 4]);
    },
  );
});
