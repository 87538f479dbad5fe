import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { UserError } from "../../src/errors.js";
import { parseModelConfig } from "../../src/model/config.js";
import { saveModelFolder } from "../../src/model/folder.js";
import { layoutSize, weightLayout } from "../../src/model/layout.js";
import { type TensorToWrite, writeSafetensors } from "../../src/model/safetensors/write.js";
import { loadPacked } from "../../src/model/model-weights.js";
import { readSafetensors, readTensor } from "../../src/model/safetensors/read.js";

const root = mkdtempSync(join(tmpdir(), "finellama-safetensors-"));
afterAll(() => rmSync(root, { recursive: true }));
let folder: string;
let count = 0;
beforeEach(() => mkdirSync((folder = join(root, String(count++)))));

const configJson = {
  model_type: "qwen2",
  vocab_size: 11,
  hidden_size: 8,
  intermediate_size: 6,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  tie_word_embeddings: true,
  torch_dtype: "bfloat16",
};
const config = parseModelConfig(configJson, "test");
const layout = weightLayout(config);
const packed = Float32Array.from({ length: layoutSize(layout) }, (_, i) => Math.sin(i));
const tensors = (): TensorToWrite[] =>
  layout.map(({ name, shape, offset, size }) => ({ name, shape, data: packed.subarray(offset, offset + size) }));

/** A file put together by hand, so that the reader is not tested against the writer's own ideas. */
function rawFile(header: unknown, data: Uint8Array): string {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const file = join(folder, "model.safetensors");
  writeFileSync(file, Buffer.concat([length, json, data]));
  return file;
}

const read = (file: string, name: string): Float32Array => {
  const tensor = readSafetensors(file).get(name);
  if (tensor === undefined) throw new Error(`no ${name}`);
  return readTensor(tensor);
};

describe("reading", () => {
  it("widens F16 and BF16 exactly, infinities, subnormals and signed zero included", () => {
    const half = Uint16Array.of(0x3c00, 0xc000, 0x3555, 0x0001, 0x03ff, 0x7bff, 0x7c00, 0xfc00, 0x8000, 0x7e00);
    const brain = Uint16Array.of(0x3f80, 0xc049, 0x7f80, 0x0001);
    const data = new Uint8Array([...new Uint8Array(half.buffer), ...new Uint8Array(brain.buffer)]);
    const file = rawFile(
      {
        h: { dtype: "F16", shape: [10], data_offsets: [0, 20] },
        b: { dtype: "BF16", shape: [2, 2], data_offsets: [20, 28] },
      },
      data,
    );
    // 0x3555 = 2^-2 · (1 + 341/1024); 0x0001 = 2^-24; 0x03ff = 1023 · 2^-24; 0x7bff = 65504
    const expected = [1, -2, 0.25 * (1 + 341 / 1024), 2 ** -24, 1023 * 2 ** -24, 65504, Infinity, -Infinity, -0, NaN];
    expect(Array.from(read(file, "h"))).toEqual(expected);
    // 0xc049 is the upper half of the float32 -3.140625
    expect(Array.from(read(file, "b"))).toEqual([1, -3.140625, Infinity, 2 ** -133]);
  });

  it("takes tensors in any order of the header, and ignores metadata", () => {
    const data = new Uint8Array(Float32Array.of(1, 2, 3).buffer);
    const file = rawFile(
      {
        second: { dtype: "F32", shape: [2], data_offsets: [4, 12] },
        __metadata__: { format: "pt" },
        first: { dtype: "F32", shape: [], data_offsets: [0, 4] },
      },
      data,
    );
    expect([...readSafetensors(file).keys()]).toEqual(["second", "first"]);
    expect(Array.from(read(file, "second"))).toEqual([2, 3]);
    expect(Array.from(read(file, "first"))).toEqual([1]);
  });

  const f32 = (shape: number[], data_offsets: number[]): object => ({ dtype: "F32", shape, data_offsets });
  it.each([
    ["a header that is not JSON", "{oops", 0, /JSON header/],
    [
      "a hole between tensors",
      { a: f32([1], [0, 4]), b: f32([1], [8, 12]) },
      12,
      /b should begin at data byte 4, its offset is 8/,
    ],
    ["overlapping tensors", { a: f32([2], [0, 8]), b: f32([1], [4, 8]) }, 8, /b should begin at data byte 8/],
    ["offsets that contradict the shape", { a: f32([3], [0, 8]) }, 8, /should take 12 bytes, its offsets span 8/],
    ["bytes after the last tensor", { a: f32([1], [0, 4]) }, 8, /need \d+ bytes, the file has/],
    ["a malformed entry", { a: { dtype: "F32", shape: [-1], data_offsets: [0, 4] } }, 4, /entry a is malformed/],
    [
      "an unknown dtype",
      { a: { dtype: "F4", shape: [1], data_offsets: [0, 1] } },
      1,
      /dtype F4, expected F32, F16 or BF16/,
    ],
  ])("refuses %s, naming the file", (_, header, bytes, message) => {
    const file = rawFile(header, new Uint8Array(bytes));
    expect(() => readSafetensors(file)).toThrow(UserError);
    expect(() => readSafetensors(file)).toThrow(message);
    expect(() => readSafetensors(file)).toThrow(file);
  });

  it("refuses a file truncated at any length", () => {
    const file = join(folder, "model.safetensors");
    writeSafetensors(file, tensors());
    const whole = readFileSync(file);
    for (const length of [0, 7, 8, 100, whole.length - 4, whole.length - 1]) {
      writeFileSync(file, whole);
      truncateSync(file, length);
      expect(() => readSafetensors(folder), `${length} bytes`).toThrow(/not a whole safetensors file/);
    }
  });

  it("refuses a git-LFS pointer by name, with the cure", () => {
    const file = join(folder, "model.safetensors");
    writeFileSync(file, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n");
    expect(() => readSafetensors(folder)).toThrow(`${file}: expected a safetensors file, found a git-LFS pointer.`);
    expect(() => readSafetensors(folder)).toThrow(/: git lfs pull$/);
  });

  it("refuses a header length beyond the format's limit instead of allocating it", () => {
    const file = join(folder, "model.safetensors");
    writeFileSync(file, Buffer.alloc(64, 0xff));
    expect(() => readSafetensors(file)).toThrow(/header length reads/);
  });

  it("refuses a folder under a file's name", () => {
    const file = join(folder, "model.safetensors");
    rmSync(file, { force: true });
    mkdirSync(file);
    expect(() => readSafetensors(folder)).toThrow(/model\.safetensors: .*expected a file, found a folder/);
    rmSync(file, { recursive: true });
  });

  it("says what a folder without weights lacks", () => {
    expect(() => readSafetensors(folder)).toThrow(/found neither/);
    expect(() => readSafetensors(join(folder, "nowhere"))).toThrow(/found nothing/);
  });
});

describe("a packed model", () => {
  it("survives writing and loading bit for bit", () => {
    // The order in the file is not the layout's.
    writeSafetensors(join(folder, "model.safetensors"), tensors().toReversed());
    expect(loadPacked(folder, config)).toEqual(packed);
  });

  it.each([
    ["F32", NaN],
    ["F32", -Infinity],
    ["BF16", NaN],
    ["BF16", Infinity],
  ] as const)("is refused by file and tensor when a value, stored as %s, is %d", (dtype, value) => {
    for (const { name, offset, size } of layout) {
      const file = join(folder, "model.safetensors");
      const bad = tensors().map((tensor) =>
        tensor.name === name ? { ...tensor, data: packed.slice(offset, offset + size).with(size - 1, value) } : tensor,
      );
      writeSafetensors(file, bad, dtype);
      const load = () => loadPacked(folder, config);
      expect(load).toThrow(UserError);
      expect(load).toThrow(`${file}: ${name}: expected finite numbers, found ${value}`);
    }
  });

  it("is the same from shards", () => {
    const weight_map: Record<string, string> = {};
    for (const shard of [0, 1, 2]) {
      const part = tensors().filter((_, i) => i % 3 === shard);
      writeSafetensors(join(folder, `model-${shard}.safetensors`), part);
      for (const { name } of part) weight_map[name] = `model-${shard}.safetensors`;
    }
    writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map }));
    expect(loadPacked(folder, config)).toEqual(packed);
    rmSync(join(folder, "model-1.safetensors"));
    expect(() => loadPacked(folder, config)).toThrow(/names the shard model-1.safetensors, which is not in the folder/);
    writeSafetensors(join(folder, "model-1.safetensors"), []);
    expect(() => loadPacked(folder, config)).toThrow(/model-1.safetensors: expected .* found no such tensor/);
  });

  it("loads exactly from bfloat16 shards, tensors longer than one read included", () => {
    const rows = (4 << 20) / 8 + 3;
    const long = { ...config, vocabSize: rows };
    const parts = weightLayout(long);
    const values = Float32Array.from({ length: layoutSize(parts) }, (_, i) => (i % 251) - 125);
    const weight_map: Record<string, string> = {};
    for (const shard of [0, 1]) {
      const part = parts.filter((_, i) => i % 2 === shard);
      for (const { name } of part) weight_map[name] = `model-${shard}.safetensors`;
      writeSafetensors(
        join(folder, `model-${shard}.safetensors`),
        part.map(({ name, shape, offset, size }) => ({ name, shape, data: values.subarray(offset, offset + size) })),
        "BF16",
      );
    }
    writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
    const loaded = loadPacked(folder, long);
    expect(Buffer.from(loaded.buffer).equals(Buffer.from(values.buffer))).toBe(true);
  });

  it("reports every missing, surplus and mis-shaped tensor by name", () => {
    const changed = tensors().filter(({ name }) => name !== "model.norm.weight");
    const k = changed.findIndex(({ name }) => name.endsWith("0.self_attn.k_proj.weight"));
    changed[k] = { name: "model.layers.0.self_attn.k_proj.weight", shape: [8, 8], data: new Float32Array(64) };
    changed.push({ name: "stray", shape: [1], data: new Float32Array(1) });
    writeSafetensors(join(folder, "model.safetensors"), changed);
    expect(() => loadPacked(folder, config)).toThrow(/model\.norm\.weight: expected \[8\], found no such tensor/);
    expect(() => loadPacked(folder, config)).toThrow(/k_proj\.weight: expected \[4, 8\], found \[8, 8\]/);
    expect(() => loadPacked(folder, config)).toThrow(/stray: expected no such tensor/);
  });

  it("may carry lm_head.weight only when the head is tied, and must when it is not", () => {
    const head = { name: "lm_head.weight", shape: [11, 8], data: packed.subarray(0, 88) };
    const untied = { ...config, tieWordEmbeddings: false };
    writeSafetensors(join(folder, "model.safetensors"), tensors());
    expect(() => loadPacked(folder, untied)).toThrow(/lm_head\.weight: expected \[11, 8\], found no such tensor/);
    writeSafetensors(join(folder, "model.safetensors"), [...tensors(), head]);
    expect(loadPacked(folder, config)).toEqual(packed);
    expect(loadPacked(folder, untied).subarray(packed.length)).toEqual(packed.subarray(0, 88));
  });

  it("of a decoder without its head are refused with the names' cure", () => {
    const bare = tensors().map((tensor) => ({ ...tensor, name: tensor.name.replace("model.", "") }));
    writeSafetensors(join(folder, "model.safetensors"), bare);
    expect(() => loadPacked(folder, config)).toThrow(
      /no such tensor[^]*\nThe names lack "model\.".*AutoModelForCausalLM/,
    );
  });

  it("may have a tied head of its own only if that equals the embedding", () => {
    for (const [dtype, data] of [
      ["F32", packed.slice(0, 88).with(87, 9)],
      ["BF16", packed.slice(0, 88).with(0, 9)],
    ] as const) {
      const head = { name: "lm_head.weight", shape: [11, 8], data };
      writeSafetensors(join(folder, "model.safetensors"), [...tensors(), head], dtype);
      expect(() => loadPacked(folder, config)).toThrow(/ties lm_head\.weight.*Set tie_word_embeddings to false/);
    }
    const narrow = { name: "lm_head.weight", shape: [8, 11], data: packed.subarray(0, 88) };
    writeSafetensors(join(folder, "model.safetensors"), [...tensors(), narrow]);
    expect(() => loadPacked(folder, config)).toThrow(UserError);
  });

  it.each(["../model-0.safetensors", "/etc/model.safetensors", "..", "sub/model.safetensors", "a\\b.safetensors"])(
    "takes no shard %s from another folder",
    (shard) => {
      const weight_map = { "model.norm.weight": shard };
      writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
      expect(() => loadPacked(folder, config)).toThrow(/expected a \.safetensors file beside the index/);
    },
  );

  it("refuses integer weights by name", () => {
    const file = rawFile({ a: { dtype: "I32", shape: [1], data_offsets: [0, 4] } }, new Uint8Array(4));
    expect(() => read(file, "a")).toThrow(/a has dtype I32, expected F32, F16 or BF16/);
  });
});

describe("writing", () => {
  it("stores BF16 as the nearest value, ties to even", () => {
    const file = join(folder, "a.safetensors");
    const float = fc.float({ noDefaultInfinity: true, noNaN: true, max: Math.fround(1e38), min: Math.fround(-1e38) });
    fc.assert(
      fc.property(fc.array(float, { minLength: 1, maxLength: 20 }), (values) => {
        const data = Float32Array.from(values);
        writeSafetensors(file, [{ name: "a", shape: [data.length], data }], "BF16");
        for (const [i, stored] of read(file, "a").entries()) {
          const value = data[i] as number;
          // 8 significant bits: at most half a unit in the last place away.
          const exponent = value === 0 ? -126 : Math.max(-126, Math.floor(Math.log2(Math.abs(value))));
          expect(Math.abs(stored - value)).toBeLessThanOrEqual(2 ** (exponent - 8));
        }
      }),
      { numRuns: 50 },
    );
    // Halfway between 1 and 1 + 2^-7, and between 1 + 2^-7 and 1 + 2^-6: both go to the even
    // neighbour.
    writeSafetensors(
      file,
      [{ name: "a", shape: [3], data: Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8, NaN) }],
      "BF16",
    );
    expect(Array.from(read(file, "a"))).toEqual([1, 1 + 2 ** -6, NaN]);
  });

  it("stores every float16 as itself, and what lies between two as the nearer, ties to the even one", () => {
    const file = join(folder, "a.safetensors");
    const stored = (data: Float32Array): Float32Array => {
      writeSafetensors(file, [{ name: "a", shape: [data.length], data }], "F16");
      return read(file, "a");
    };
    // all finite ones, by the reader, which has its own test: 0 to 65504 in ascending order, then
    // their negatives
    const bits = Uint16Array.from({ length: 2 * 0x7c00 }, (_, i) => (i < 0x7c00 ? i : i - 0x7c00 + 0x8000));
    const header = { h: { dtype: "F16", shape: [bits.length], data_offsets: [0, bits.byteLength] } };
    const every = read(rawFile(header, new Uint8Array(bits.buffer)), "h");
    expect(Buffer.from(stored(every).buffer).equals(Buffer.from(every.buffer))).toBe(true); // -0 included

    const positive = every.subarray(0, 0x7c00);
    const between = positive.subarray(1).map((high, i) => (high + positive[i]!) / 2); // exact: one more bit
    expect(stored(between)).toEqual(between.map((_, i) => positive[i % 2 === 0 ? i : i + 1]!));
    const step = (value: number, by: number): number => {
      const one = Float32Array.of(value);
      new Int32Array(one.buffer)[0]! += by;
      return one[0]!;
    };
    expect(stored(between.map((value) => step(value, -1)))).toEqual(positive.slice(0, -1));
    expect(stored(between.map((value) => step(value, 1)))).toEqual(positive.slice(1));
    expect(stored(Float32Array.of(2 ** -149, -(2 ** -30)))).toEqual(Float32Array.of(0, -0));
  });

  it.each([65504.004, -1e6, Infinity, NaN])(
    "refuses %d as float16 by the tensor's name, and leaves no file",
    (value) => {
      const file = join(folder, "a.safetensors");
      const write = () =>
        writeSafetensors(file, [{ name: "layer.weight", shape: [2], data: Float32Array.of(65504, value) }], "F16");
      expect(write).toThrow(UserError);
      expect(write).toThrow(/^layer\.weight: expected values within ±65504.*found.*bf16/);
      expect(readdirSync(folder)).toEqual([]);
    },
  );

  it("asks for a tensor's data when its turn comes", () => {
    const file = join(folder, "a.safetensors");
    const asked: string[] = [];
    const lazy = (name: string): TensorToWrite => ({
      name,
      shape: [2],
      data: () => (asked.push(name), Float32Array.of(1, 2)),
    });
    writeSafetensors(file, [lazy("b"), lazy("a")]);
    expect(asked).toEqual(["b", "a"]);
    expect(Array.from(read(file, "a"))).toEqual([1, 2]);
  });

  it("leaves the old file, and no temporary one, when it fails half-way", () => {
    const file = join(folder, "a.safetensors");
    writeSafetensors(file, [{ name: "a", shape: [1], data: Float32Array.of(7) }]);
    const fail = (): Float32Array => {
      throw new Error("interrupted");
    };
    expect(() => writeSafetensors(file, [{ name: "a", shape: [1], data: fail }])).toThrow("interrupted");
    expect(Array.from(read(file, "a"))).toEqual([7]);
    expect(readdirSync(folder)).toEqual(["a.safetensors"]);
  });

  it("aligns the data to 8 bytes and says what transformers asks for", () => {
    const file = join(folder, "a.safetensors");
    writeSafetensors(file, [{ name: "weight", shape: [1], data: Float32Array.of(7) }]);
    const bytes = readFileSync(file);
    const length = Number(bytes.readBigUInt64LE());
    expect(length % 8).toBe(0);
    expect(JSON.parse(bytes.subarray(8, 8 + length).toString())).toMatchObject({ __metadata__: { format: "pt" } });
  });
});

describe("a saved model folder", () => {
  const source = (): string => {
    const from = join(folder, "source");
    mkdirSync(from);
    writeFileSync(join(from, "config.json"), JSON.stringify({ ...configJson, architectures: ["Qwen2ForCausalLM"] }));
    for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
      writeFileSync(join(from, name), name);
    return from;
  };

  it("holds the weights, the source's config in float32, and the tokenizer", () => {
    const target = join(folder, "deep", "target");
    saveModelFolder(target, source(), config, packed);
    expect(loadPacked(target, config)).toEqual(packed);
    const json: unknown = JSON.parse(readFileSync(join(target, "config.json"), "utf8"));
    expect(json).toMatchObject({
      architectures: ["Qwen2ForCausalLM"],
      hidden_size: 8,
      dtype: "float32",
      torch_dtype: "float32",
    });
    for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
      expect(readFileSync(join(target, name), "utf8")).toBe(name);
  });

  it("can be saved over its own source", () => {
    const from = source();
    saveModelFolder(from, from, config, packed);
    expect(loadPacked(from, config)).toEqual(packed);
    expect(existsSync(join(from, "tokenizer.json"))).toBe(true);
  });

  it("is refused when the source has no tokenizer", () => {
    const from = source();
    rmSync(join(from, "tokenizer.json"));
    expect(() => saveModelFolder(join(folder, "target"), from, config, packed)).toThrow(
      /tokenizer\.json: expected the model's tokenizer/,
    );
  });
});
