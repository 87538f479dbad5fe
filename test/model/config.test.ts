/** config.json: what is read as transformers reads it, and what is refused with its cure. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UserError } from "../../src/errors.js";
import { parseModelConfig, readModelConfig } from "../../src/model/config.js";
import { writeConfig } from "../../src/model/folder.js";

const json = {
  model_type: "llama",
  vocab_size: 11,
  hidden_size: 8,
  intermediate_size: 6,
  num_hidden_layers: 2,
  num_attention_heads: 2,
};
/** Keys of a published GPT-2's config.json. */
const gpt2 = { model_type: "gpt2", n_ctx: 1024, n_embd: 768, n_head: 12, n_layer: 12, vocab_size: 50257 };
const parse = (changes: object) => parseModelConfig({ ...json, ...changes }, "c.json");

test.each([gpt2, { model_type: "t5" }])("another architecture is named, not its missing keys: %j", (other) => {
  expect(() => parseModelConfig(other, "c.json")).toThrow(
    `c.json: model_type is "${other.model_type}", expected "qwen2" or "llama". Choose a model of one`,
  );
});

test.each([null, [], 7, { ...gpt2, model_type: 3 }, { ...gpt2, model_type: undefined }])("%j is no config", (other) => {
  expect(() => parseModelConfig(other, "c.json")).toThrow(/^c.json: not a model config/);
});

describe("rope_theta", () => {
  test.each([
    [{}, 10_000],
    [{ rope_theta: 7 }, 7],
    [{ rope_parameters: { rope_type: "default", rope_theta: 500 } }, 500],
    [{ rope_scaling: { rope_type: "default", rope_theta: 500 } }, 500],
    [{ rope_scaling: { type: "default", rope_theta: 500 }, rope_theta: 7 }, 500],
    [{ rope_scaling: { type: "default" }, rope_theta: 7 }, 7],
    [{ rope_scaling: { rope_theta: 500 }, rope_parameters: { rope_theta: 9 } }, 500],
    [{ rope_scaling: null, rope_parameters: { rope_theta: 9 } }, 9],
  ])("of %j is %d", (changes, theta) => expect(parse(changes).ropeTheta).toBe(theta));
});

describe("RoPE scaling", () => {
  const llama3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };

  test("linear and llama3 are read as transformers reads them", () => {
    const linear = { type: "linear", factor: 2 };
    for (const changes of [{ rope_scaling: linear }, { rope_parameters: { rope_type: "linear", factor: 2 } }])
      expect(parse(changes).ropeScaling).toEqual(linear);
    const contextOf = (changes: object): unknown => {
      const found = parse({ max_position_embeddings: 99, ...changes }).ropeScaling!;
      expect(found).toMatchObject({ type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4 });
      return found.type === "llama3" && found.originalMaxPositions;
    };
    const inside = { ...llama3, original_max_position_embeddings: 77 };
    expect(contextOf({ rope_scaling: inside })).toBe(77);
    expect(contextOf({ rope_scaling: llama3 })).toBe(99);
    expect(contextOf({ rope_scaling: inside, original_max_position_embeddings: 55 })).toBe(55);
    expect(parse({}).ropeScaling).toBeUndefined();
  });

  test("is still there in a model that was saved", () => {
    const [source, target] = [0, 1].map(() => mkdtempSync(join(tmpdir(), "config-"))) as [string, string];
    writeFileSync(join(source, "config.json"), JSON.stringify({ ...json, rope_scaling: llama3 }));
    writeConfig(target, source, "float32");
    expect(readModelConfig(target)).toEqual(readModelConfig(source));
    expect(readModelConfig(target).ropeScaling).toMatchObject({ type: "llama3", factor: 8 });
    for (const folder of [source, target]) rmSync(folder, { recursive: true });
  });

  test.each([
    [{ type: "linear" }, "factor"],
    [{ type: "linear", factor: 0.5 }, "factor"],
    [{ type: "linear", factor: 2, partial_rotary_factor: 0.5 }, "partial_rotary_factor"],
    [{ ...llama3, low_freq_factor: undefined }, "low_freq_factor"],
    [{ ...llama3, high_freq_factor: "4" }, "high_freq_factor"],
  ])("%j is refused, naming what is wrong", (rope_scaling, name) => {
    expect(() => parse({ rope_scaling })).toThrow(UserError);
    expect(() => parse({ rope_scaling })).toThrow(name);
  });

  test.each(["longrope", "anything"])("%s is part of the model", (rope_type) => {
    const scaling = { rope_type, factor: 2 };
    for (const changes of [
      { rope_scaling: scaling },
      { rope_parameters: scaling },
      { rope_scaling: { type: rope_type } },
    ])
      expect(() => parse(changes)).toThrow(
        `"${rope_type}" is not supported, expected linear, llama3 or none. Without its scaling`,
      );
  });

  test.each([
    ["dynamic", /beyond max_position_embeddings alone: remove it/],
    ["yarn", /If it was added for longer contexts.*remove it/],
  ])("%s may be removed, and when is said", (type, cure) =>
    expect(() => parse({ rope_scaling: { type, factor: 4 } })).toThrow(cure),
  );
});

test.each([
  [{ quant_method: "bitsandbytes", load_in_4bit: true }, "bitsandbytes"],
  [{ quant_method: "gptq", bits: 4 }, "gptq"],
  [{ load_in_8bit: true }, "by quantization_config"],
])("a quantised model (%j) is named as one, with the cure", (quantization_config, method) => {
  expect(() => parse({ quantization_config })).toThrow(UserError);
  expect(() => parse({ quantization_config })).toThrow(`quantised (${method}), expected F32, F16 or BF16 weights. Use`);
});

test("null is read as not given", () => {
  const nulls = { num_key_value_heads: null, head_dim: null, rope_scaling: null, quantization_config: null };
  expect(parse(nulls)).toEqual(parse({}));
});

describe("sizes beyond any model are refused before anything is allocated", () => {
  test.each([
    ["num_hidden_layers", 1001],
    ["hidden_size", 2 ** 40],
    ["intermediate_size", 2 ** 31],
    ["vocab_size", 1e15],
    ["num_attention_heads", 2 ** 22],
    ["num_key_value_heads", 2 ** 22],
    ["head_dim", 2 ** 22],
    ["hidden_size", 0],
    ["vocab_size", 1.5],
  ])("%s %d", (key, value) =>
    expect(() => parse({ [key]: value })).toThrow(new RegExp(`not a model config[^]*at ${key}`)),
  );

  test("a product of sizes that are each within bounds", () => {
    expect(() => parse({ num_hidden_layers: 1000, hidden_size: 2 ** 20, intermediate_size: 2 ** 20 })).toThrow(
      /its sizes make \d+ parameters, expected at most/,
    );
  });
});
