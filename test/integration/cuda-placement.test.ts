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
import { buildGroupedSegmentGraph } from "../../src/engine/graph/grouped-segment.js";
import { isFused, type Numeric } from "../../src/engine/graph/numeric.js";
import { buildPrefillGraph } from "../../src/engine/graph/qwen2.js";
import { buildSegmentGraph } from "../../src/engine/graph/segment.js";
import { parseModelConfig, type ModelConfig } from "../../src/model/config.js";
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
interface Variant {
  readonly name: string;
  readonly config: ModelConfig;
  readonly numeric: Numeric;
}
/** float16 decodes by grouped-segment.ts, float32 in three parts. */
function variantOf(dtype: "float16" | "float32", type: "qwen2" | "llama", lora: boolean, sizes = shape): Variant {
  // 509 is padded when it is cut into blocks, as Qwen2.5's vocabulary is; 512 is not
  const vocabulary = type === "qwen2" ? { vocab_size: 509, tie_word_embeddings: true } : { vocab_size: 512 };
  const config = parseModelConfig({ ...sizes, ...vocabulary, model_type: type }, "test");
  const fused = isFused(config, dtype);
  const adapters = lora ? adapterInputs(config, spec, fused) : [];
  const numeric: Numeric = { dtype, fused, weights: "initializers", adapters };
  return { name: `${dtype}, ${type}, ${lora ? "LoRA" : "whole policies"}`, config, numeric };
}
const variants = (["float16", "float32"] as const).flatMap((dtype) =>
  (["qwen2", "llama"] as const).flatMap((type) => [true, false].map((lora) => variantOf(dtype, type, lora))),
);
const decodeGraphOf = ({ config, numeric }: Variant): Uint8Array =>
  numeric.fused === true ? buildGroupedSegmentGraph(config, S, numeric) : buildSegmentGraph(config, R, S, numeric);

/** Inputs of the decode graph but `steps`, as segment.ts and grouped-segment.ts list them. */
function segmentInputs({ config, numeric }: Variant): [string, string, number[]][] {
  const { numLayers, numKvHeads, headDim } = config;
  const adapters = numeric.adapters.flatMap(({ a, b }) => [a, b]);
  type Input = [string, string, number[]];
  const caches = Array.from({ length: numLayers }, (_, layer) =>
    ["k", "v"].flatMap((kind): Input[] =>
      numeric.fused === true
        ? [[`past_${kind}.${layer}`, numeric.dtype, [R, numKvHeads, T, headDim]]]
        : [
            [`prompt_${kind}.${layer}`, numeric.dtype, [numKvHeads, 1, Q, Tp, headDim]],
            [`past_${kind}.${layer}`, numeric.dtype, [numKvHeads, 1, R, T, headDim]],
          ],
    ),
  );
  const places: Input[] =
    numeric.fused === true
      ? [["lengths", "int32", [R]]]
      : [
          ["block_rows", "int64", [Q, Math.ceil(R / Q)]],
          ["row_places", "int64", [R, 1]],
          ["mask", "float32", [R, 1, Tp + T + S]],
          ["position", "int64", [1, R]],
        ];
  return [
    ...adapters.map(({ name, shape: dims }): [string, string, number[]] => [name, numeric.dtype, [...dims]]),
    ...caches.flat(),
    ...places,
    ["token", "int64", [R, 1]],
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
const copiesToHost = (log: string, steps: number): number[] =>
  [...runOf(log, steps).matchAll(/^copy to-host (\d+)$/gm)].map((match) => Number(match[1]));

const runOf = (log: string, steps: number): string =>
  log.slice(log.indexOf(`run ${steps}\n`), log.indexOf(`ran ${steps}\n`));

/** Lines that each step adds: two runs that differ by two steps. */
function perStep(log: string, line: RegExp): number {
  const count = (steps: number): number => [...runOf(log, steps).matchAll(line)].length;
  return (count(4) - count(2)) / 2;
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
  function logOf(variant: Variant, model: Uint8Array, inputs?: [string, string, number[]][]): string {
    const { config, numeric } = variant;
    const last = storedWeights(config, numeric.dtype, numeric.fused).at(-1)!;
    writeFileSync(join(folder, WEIGHTS_FILE), "");
    truncateSync(join(folder, WEIGHTS_FILE), last.position + byteLength(last));
    const path = join(folder, "model.onnx");
    writeFileSync(path, model);
    const args = [join(root, "test/fixtures/cuda-session.mjs"), folder, path];
    if (inputs !== undefined) args.push(JSON.stringify(inputs));
    const env = {
      ...process.env,
      LD_LIBRARY_PATH: join(folder, "stand-in"),
      CUDA_STAND_IN_COPIES: "1",
      CUDA_STAND_IN_CALLS: "1",
    };
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
      const model = decodeGraphOf(v);
      const log = logOf(v, model, segmentInputs(v));
      expect(checkPlacement(model, log)).toBeGreaterThan(60);
      const [two, four] = [copiesToHost(log, 2), copiesToHost(log, 4)];
      // Outputs come once in a run, however long it is; what each step adds is the loop's
      // condition.
      expect(two.length).toBeGreaterThan(2);
      expect(four.length - two.length).toBe(2);
      expect([two, four].map((copies) => copies.filter((bytes) => bytes === 1).length)).toEqual([2, 4]);
    },
  );

  it("a step of the 3B's 36 layers with LoRA starts at most 1,500 operations and copies hardly anything in", () => {
    // its heads of 128, of which the kernels depend, and its layers
    const variant = variantOf("float16", "qwen2", true, { ...shape, hidden_size: 512, num_hidden_layers: 36 });
    const counts = ({ numeric }: Variant) => {
      const v = { ...variant, numeric };
      const log = logOf(v, decodeGraphOf(v), segmentInputs(v));
      const [calls, copies, copiesIn, pinned] = [/^call /gm, /^copy /gm, /^copy to-device /gm, /^pinned /gm].map(
        (line) => perStep(log, line),
      ) as [number, number, number, number];
      return { calls, copies, copiesIn, pinned };
    };
    const fused = counts(variant);
    const parted = { ...variant.numeric, fused: false, adapters: adapterInputs(variant.config, spec) };
    console.info("a step in three parts", counts({ ...variant, numeric: parted }), "by GroupQueryAttention", fused);
    expect(fused.calls + fused.copies).toBeLessThanOrEqual(1_500);
    expect(fused.calls).toBeGreaterThan(36 * 10);
    expect(fused.copiesIn).toBeLessThanOrEqual(10);
    expect(fused.pinned).toBe(0);
  });
});
