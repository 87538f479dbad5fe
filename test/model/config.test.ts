/** config.json: what is read as transformers reads it, and what is refused with its cure. */
import { describe, expect, test } from "vitest";
import { UserError } from "../../src/errors.js";
import { parseModelConfig } from "../../src/model/config.js";

const json = {
  model_type: "llama",
  vocab_size: 11,
  hidden_size: 8,
  intermediate_size: 6,
  num_hidden_layers: 2,
  num_attention_heads: 2,
};
const parse = (changes: object) => parseModelConfig({ ...json, ...changes }, "c.json");

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
  test.each(["linear", "llama3", "longrope", "anything"])("%s is part of the model", (rope_type) => {
    const scaling = { rope_type, factor: 2 };
    for (const changes of [
      { rope_scaling: scaling },
      { rope_parameters: scaling },
      { rope_scaling: { type: rope_type } },
    ])
      expect(() => parse(changes)).toThrow(`"${rope_type}" is not supported, expected none. Without its scaling`);
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
