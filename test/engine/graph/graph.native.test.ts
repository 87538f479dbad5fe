import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { chooseBlockSize } from "../../../src/engine/batch.js";
import { Graph } from "../../../src/engine/graph/onnx.js";
import { sample, vocabularyBlocks } from "../../../src/engine/graph/sampling.js";
import { buildSegmentGraph } from "../../../src/engine/graph/segment.js";
import { weightViews } from "../../../src/engine/graph/weights.js";
import { parseModelConfig } from "../../../src/model/config.js";
import { layoutSize, weightLayout } from "../../../src/model/layout.js";

const qwen25 = parseModelConfig(
  {
    model_type: "qwen2",
    vocab_size: 151936,
    hidden_size: 2048,
    intermediate_size: 11008,
    num_hidden_layers: 2,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    tie_word_embeddings: true,
  },
  "test",
);

interface DecodedNode {
  op: string;
  inputs: string[];
  outputs: string[];
}

/**
 * Every node (subgraphs included) and int64 constant of an encoded graph; field numbers of
 * onnx.proto3.
 */
function decode(bytes: Uint8Array, nodes: DecodedNode[], constants: Map<string, number[]>): void {
  fields(bytes, (field, value) => {
    if (field === 1) {
      const node: DecodedNode = { op: "", inputs: [], outputs: [] };
      fields(value, (part, inner) => {
        if (part === 1) node.inputs.push(text(inner));
        if (part === 2) node.outputs.push(text(inner));
        if (part === 4) node.op = text(inner);
        if (part === 5) fields(inner, (attribute, graph) => attribute === 6 && decode(graph, nodes, constants));
      });
      nodes.push(node);
    } else if (field === 5) {
      let name = "";
      let raw: Uint8Array | undefined;
      fields(value, (part, inner) => {
        if (part === 8) name = text(inner);
        if (part === 9) raw = inner;
      });
      if (name.startsWith("int64")) constants.set(name, [...new BigInt64Array(raw!.slice().buffer)].map(Number));
    }
  });
}

/** Calls `each` for the length-delimited fields of a message. */
function fields(bytes: Uint8Array, each: (field: number, value: Uint8Array) => void): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (wire === WireType.LengthDelimited) each(field, reader.bytes());
    else reader.skip(wire);
  }
}

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

describe("the segment graph", () => {
  it("has no CumSum over more than 1,024 entries, with 151,936 tokens", () => {
    const nodes: DecodedNode[] = [];
    const constants = new Map<string, number[]>();
    fields(buildSegmentGraph(qwen25, 4, 4), (field, graph) => field === 7 && decode(graph, nodes, constants));
    const producer = new Map(nodes.flatMap((node) => node.outputs.map((output) => [output, node] as const)));
    // A CumSum's length follows from the constant shape of the Reshape its input comes from.
    const lengths = nodes
      .filter(({ op }) => op === "CumSum")
      .map((node) => {
        let source = producer.get(node.inputs[0]!)!;
        const reduced = source.op === "ReduceSum"; // the last axis is gone: the one before it is summed over
        while (source.op !== "Reshape") source = producer.get(source.inputs[0]!)!;
        return constants.get(source.inputs[1]!)!.at(reduced ? -2 : -1)!;
      });
    expect(lengths).toHaveLength(2);
    expect(lengths[0]! * lengths[1]!).toBeGreaterThanOrEqual(151936);
    for (const length of lengths) expect(length).toBeLessThanOrEqual(1024);
  });
});

it("weight views cover the packed buffer exactly", () => {
  let end = 0;
  for (const { offset, shape } of weightViews(qwen25)) {
    expect(offset).toBe(end);
    end = offset + shape.reduce((a, b) => a * b, 1);
  }
  expect(end).toBe(layoutSize(weightLayout(qwen25)));
});

it("vocabulary blocks hold the vocabulary, with short sides and less than one block of padding", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 300_000 }), (vocabSize) => {
      const { count, width } = vocabularyBlocks(vocabSize);
      expect(count * width).toBeGreaterThanOrEqual(vocabSize);
      expect((count - 1) * width).toBeLessThan(vocabSize);
      expect(Math.max(count, width)).toBeLessThanOrEqual(1024);
    }),
  );
});

describe("sampling in graph", () => {
  async function run(vocabSize: number, logits: Float32Array[], u: number[], inverse: number[], greedy = false) {
    const R = logits.length;
    const g = new Graph();
    const chosen = sample(g, g.input("logits", "float32", ["R", vocabSize]), vocabSize, {
      inverseTemperature: g.input("inverse", "float32", ["R", 1]),
      greedy: g.input("greedy", "bool", ["R", 1]),
      anyArgmax: g.input("any", "bool", [1]),
      uniform: g.input("u", "float32", ["R", 1]),
      forced: g.input("forced", "int64", ["R", 1]),
      blockOffset: g.input("offset", "int64", ["R", 1]),
    });
    g.nodeTo(["token"], "Identity", [chosen.token]);
    g.nodeTo(["logprob"], "Identity", [chosen.logprob]);
    g.output("token", "int64");
    g.output("logprob", "float32");
    const session = await InferenceSession.create(g.encodeModel(), { intraOpNumThreads: 1 });
    const all = new Float32Array(R * vocabSize);
    logits.forEach((row, r) => all.set(row, r * vocabSize));
    const { count } = vocabularyBlocks(vocabSize);
    const result = await session.run({
      logits: new Tensor("float32", all, [R, vocabSize]),
      inverse: new Tensor("float32", Float32Array.from(inverse), [R, 1]),
      greedy: new Tensor("bool", new Uint8Array(R).fill(Number(greedy)), [R, 1]),
      any: new Tensor("bool", Uint8Array.of(Number(greedy)), [1]),
      u: new Tensor("float32", Float32Array.from(u), [R, 1]),
      forced: new Tensor("int64", new BigInt64Array(R).fill(-1n), [R, 1]),
      offset: new Tensor(
        "int64",
        BigInt64Array.from({ length: R }, (_, r) => BigInt(r * count)),
        [R, 1],
      ),
    });
    await session.release();
    return {
      tokens: [...(result["token"]!.data as BigInt64Array)].map(Number),
      logprobs: result["logprob"]!.data as Float32Array,
    };
  }

  /** Deterministic logits with a wide range, so that many probabilities underflow to 0. */
  function logitsOf(vocabSize: number, row: number, spread: number): Float32Array {
    return Float32Array.from({ length: vocabSize }, (_, i) => {
      const x = Math.sin((i + 1) * (row + 1) * 12.9898) * 43758.5453;
      return (x - Math.floor(x)) * spread - spread / 2;
    });
  }

  it.each([2, 103, 512, 1009])("equals a plain inverse CDF in float64, vocabulary %i", async (vocabSize) => {
    const edges = [0, 2 ** -24, 0.25, 0.5, 1 - 2 ** -23, 1 - 2 ** -24];
    const logits: Float32Array[] = [];
    const u: number[] = [];
    const inverse: number[] = [];
    for (let row = 0; row < 300; row++) {
      logits.push(logitsOf(vocabSize, row, row % 2 === 0 ? 1 : 400));
      u.push(edges[row >> 3] ?? (row % 5 === 0 ? 1 - 2 ** -24 : Math.fround((row * 0.61803) % 1)));
      inverse.push(row % 3 === 0 ? 1 : Math.fround(1 / 0.7));
    }
    const { tokens, logprobs } = await run(vocabSize, logits, u, inverse);
    logits.forEach((row, r) => {
      const max = Math.max(...row) * inverse[r]!;
      const weights = Array.from(row, (x) => Math.exp(x * inverse[r]! - max));
      const total = weights.reduce((a, b) => a + b, 0);
      const token = tokens[r]!;
      expect(token).toBeLessThan(vocabSize);
      const before = weights.slice(0, token).reduce((a, b) => a + b, 0) / total;
      const after = before + weights[token]! / total;
      // The uniform lies in the token's interval, up to rounding, and the token's weight is not 0
      // in float32.
      expect(u[r]!).toBeGreaterThan(before - 2e-6);
      expect(u[r]!).toBeLessThan(after + 2e-6);
      expect(Math.fround(weights[token]!)).toBeGreaterThan(0);
      expect(logprobs[r]!).toBeCloseTo(Math.log(weights[token]! / total), 4);
    });
  });

  it("never takes a token of weight 0, however a uniform falls on a block boundary", async () => {
    const vocabSize = 512;
    const { count, width } = vocabularyBlocks(vocabSize);
    const logits: Float32Array[] = [];
    const u: number[] = [];
    for (let row = 0; row < 3000; row++) {
      const z = logitsOf(vocabSize, row, 3);
      // In half of the rows that block holds nearly all the weight, so that its own rounding
      // matters most.
      if (row % 32 < 16) for (let i = 0; i < width; i++) z[(row % count) * width + i]! += 12;
      // The first and last tokens of every block weigh nothing, so that rounding at its ends would
      // choose them.
      for (let i = 0; i < vocabSize; i++) if (i % width < 2 || i % width >= width - 2) z[i] = -1000;
      const weights = Array.from(z, (x) => Math.exp(x));
      const total = weights.reduce((a, b) => a + b, 0);
      const end = weights.slice(0, ((row % count) + 1) * width).reduce((a, b) => a + b, 0) / total;
      const ticks = Math.round(end * 2 ** 24) + ((row >> 4) % 9) - 4;
      logits.push(z);
      u.push(Math.min(ticks, 2 ** 24 - 1) / 2 ** 24);
    }
    const { tokens } = await run(vocabSize, logits, u, Array<number>(logits.length).fill(1));
    expect(tokens.filter((token, r) => (logits[r]?.[token] ?? 0) === -1000)).toEqual([]);
  });

  it("greedy takes the largest logit, the first of equals", async () => {
    const row = logitsOf(103, 1, 4);
    row[60] = 9;
    row[80] = 9;
    const { tokens } = await run(103, [row], [0.99], [1], true);
    expect(tokens).toEqual([60]);
  });
});

describe("block size", () => {
  it("shares prompts between full groups, and leaves places empty where that saves blocks", () => {
    expect(chooseBlockSize([8, 8, 8])).toBe(8);
    expect(chooseBlockSize([1, 1, 1])).toBe(1);
    // m = 7: 3 blocks × (7 + 8) = 45; m = 5: 4 × 13 = 52; m = 4: 5 × 12 = 60; m = 1: 15 × 9 = 135
    expect(chooseBlockSize([5, 3, 7])).toBe(7);
    // m = 2: 10 blocks × 10 = 100; m = 8: 7 × 16 = 112; m = 4: 8 × 12 = 96; m = 1: 14 × 9 = 126
    expect(chooseBlockSize([8, 1, 1, 1, 1, 1, 1])).toBe(4);
  });
});
