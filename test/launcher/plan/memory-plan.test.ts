/**
 * The memory plan: items by hand, monotone in every setting that should be, refusals that name a
 * cure.
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { loadConfig } from "../../../src/config/load.js";
import { runConfigSchema, type RunConfig } from "../../../src/config/schema.js";
import { learnerItems, microbatchShape } from "../../../src/launcher/plan/learner-memory.js";
import { actorItems } from "../../../src/launcher/plan/actor-memory.js";
import { fits, planMemory, sumOf, type MemoryLimits } from "../../../src/launcher/plan/memory-plan.js";
import { refusal } from "../../../src/launcher/plan/memory-report.js";
import { parseModelConfig, readModelConfig } from "../../../src/model/config.js";
import { root } from "../../support/run.js";

/**
 * 2 layers, tied: P = V H + L (2 H + 2 q H + 2 kv H + 3 I H) + H = 80 + 2 (16 + 128 + 64 + 384) + 8
 * = 1272.
 */
const tiny = parseModelConfig(
  {
    model_type: "llama",
    vocab_size: 10,
    hidden_size: 8,
    intermediate_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    tie_word_embeddings: true,
  },
  "tiny",
);
const qwen3b = parseModelConfig(
  {
    model_type: "qwen2",
    vocab_size: 151936,
    hidden_size: 2048,
    intermediate_size: 11008,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    tie_word_embeddings: true,
  },
  "qwen",
);
const run = (layer: object): RunConfig => runConfigSchema.parse(layer);
const small = {
  data: { max_prompt_length: 5 },
  max_completion_length: 4,
  num_generations: 2,
  generation_batch_size: 8,
};
const bytesOf = (items: readonly { name: string; bytes: number }[], name: string): number =>
  items.find((item) => item.name.startsWith(name))?.bytes ?? 0;
const machine = (gpuBytes: number | null, ramBytes: number | null, actors = 1): MemoryLimits => ({
  devices:
    gpuBytes === null
      ? { learner: null, actors: Array(actors).fill(null) }
      : { learner: "0", actors: Array(actors).fill("0") },
  gpuBytes,
  ramBytes,
});

describe("items by hand", () => {
  test("the largest microbatch: whole groups of the longest prompts and completions", () => {
    // a group: 5 + 2 · (4 - 1) = 11 tokens; 4 groups a step; 30 tokens hold 2 of them
    expect(microbatchShape(run({ ...small, tokens_per_microbatch: 30 }))).toEqual({
      groups: 2,
      tokens: 22,
      targets: 16,
      several: true,
    });
    // a group larger than the budget stands alone
    expect(microbatchShape(run({ ...small, tokens_per_microbatch: 3 })).tokens).toBe(11);
    expect(microbatchShape(run(small))).toMatchObject({ groups: 4, several: false });
  });

  test("full fine-tuning: vector, moments, views, gradients and their concatenation", () => {
    const items = learnerItems(run(small), tiny, "ram");
    expect(bytesOf(items, "trainable")).toBe(4 * 1272);
    expect(bytesOf(items, "AdamW")).toBe(8 * 1272);
    expect(bytesOf(items, "gradient")).toBe(4 * (3 * 1272 + 2 * 80));
    expect(bytesOf(items, "reference")).toBe(0);
    expect(bytesOf(learnerItems(run({ ...small, beta: 0.1 }), tiny, "ram"), "reference")).toBe(4 * 1272);
    expect(bytesOf(learnerItems(run({ ...small, tokens_per_microbatch: 11 }), tiny, "ram"), "gradient")).toBe(
      4 * (4 * 1272 + 2 * 80),
    );
  });

  test("LoRA: adapters beside a frozen base; a separate value trunk is a second set", () => {
    const lora = { enabled: true, r: 2, target_modules: ["q_proj"] };
    // A [2, 8] and B [8, 2] in each of two layers
    expect(bytesOf(learnerItems(run({ ...small, lora }), tiny, "ram"), "trainable")).toBe(4 * 64);
    expect(bytesOf(learnerItems(run({ ...small, lora }), tiny, "ram"), "frozen")).toBe(4 * 1272);
    const learner = { matmul: "bfloat16" };
    expect(bytesOf(learnerItems(run({ ...small, lora, learner }), tiny, "ram"), "the base rounded")).toBe(2 * 1272);
    const ppo = { ...small, lora, algo: "ppo", value_model: "separate" };
    expect(bytesOf(learnerItems(run(ppo), tiny, "ram"), "trainable")).toBe(4 * (2 * 64 + 9));
  });

  test("an actor: weights, staging, and keys and values of its rows", () => {
    const items = actorItems(run({ ...small, actors: { max_rows: 6, segment_length: 2 } }), tiny, "ram");
    expect(bytesOf(items, "weights")).toBe(4 * 1272);
    expect(bytesOf(items, "staging")).toBe(4 * 1272);
    // a token: keys and values of 2 layers × 4 = 16 elements; 6 prompts of 5, twice; 6 rows of 4,
    // twice
    expect(bytesOf(items, "keys and values of prompts")).toBe(2 * 6 * 5 * 16 * 4);
    expect(bytesOf(items, "keys and values of completions")).toBe(2 * 6 * 4 * 16 * 4);
  });
});

describe("an actor on a GPU", () => {
  const items = (dtype: string, lora: object = {}) =>
    actorItems(run({ ...small, lora, actors: { device: "cuda", dtype, max_rows: 6, segment_length: 2 } }), tiny, "gpu");

  test("two sessions, each with the weights of its graph: no head and no last MLP in prefill", () => {
    // 5 norms of 8 in float32, the other 1272 - 40 in float16, and the tied head once more, 80 in
    // float32
    expect(bytesOf(items("float16"), "weights of the decode session")).toBe(4 * 40 + 2 * 1232 + 4 * 80);
    // of the last layer not o (64), gate, up, down (3 · 128) and its second norm, nor the final
    // norm (8 each)
    expect(bytesOf(items("float16"), "weights of the prefill session")).toBe(4 * 24 + 2 * (1232 - 448));
    // in float32 the head is the embedding, which both need
    expect(bytesOf(items("float32"), "weights of the decode session")).toBe(4 * 1272);
    expect(bytesOf(items("float32"), "weights of the prefill session")).toBe(4 * (1272 - 464));
    expect(bytesOf(items("float32"), "weights as a file")).toBe(4 * 1272);
    expect(bytesOf(items("float32"), "the largest parameter")).toBe(4 * 128);
  });

  test("LoRA: no second set of weights, but adapters as inputs of both sessions", () => {
    const lora = { enabled: true, r: 2, target_modules: ["q_proj"] };
    // a layer: A [2, 8], and B in the rows of q, k and v together, [4 heads, 4, 2]
    expect(bytesOf(items("float16", lora), "adapters in both sessions")).toBe(2 * 2 * 2 * (16 + 32));
    expect(bytesOf(items("float16", lora), "weights of the decode session")).toBe(
      bytesOf(items("float16"), "weights of the decode session"),
    );
  });
});

test("more of anything never takes less; checkpointing and adapters never take more", () => {
  const total = (config: RunConfig): number => {
    const { processes } = planMemory(config, qwen3b, machine(80e9, null));
    return sumOf(processes, "gpu") + sumOf(processes, "ram");
  };
  const settings = fc.record({
    tokens_per_microbatch: fc.integer({ min: 1, max: 40_000 }),
    max_completion_length: fc.integer({ min: 2, max: 2_000 }),
    rows: fc.integer({ min: 8, max: 512 }),
    prompt: fc.integer({ min: 1, max: 1_000 }),
    checkpointing: fc.boolean(),
    enabled: fc.boolean(),
    more: fc.integer({ min: 1, max: 5_000 }),
  });
  fc.assert(
    fc.property(settings, ({ rows, prompt, checkpointing, enabled, more, ...rest }) => {
      const layer = {
        ...rest,
        actors: { max_rows: rows, device: "cuda" },
        data: { max_prompt_length: prompt },
        model: { gradient_checkpointing: checkpointing },
        lora: { enabled },
      };
      const before = total(run(layer));
      expect(total(run({ ...layer, actors: { ...layer.actors, max_rows: rows + more } }))).toBeGreaterThanOrEqual(
        before,
      );
      // Where larger microbatches become one, no sum over them is kept: one vector less, with the
      // allocator's share.
      const larger = run({ ...layer, tokens_per_microbatch: rest.tokens_per_microbatch + more });
      const isOneNow = microbatchShape(run(layer)).several && !microbatchShape(larger).several;
      const vector = bytesOf(learnerItems(larger, qwen3b, "gpu"), "trainable");
      expect(total(larger) + (isOneNow ? 1.2 * vector : 0)).toBeGreaterThanOrEqual(before * (1 - 1e-12));
      expect(total(run({ ...layer, model: { gradient_checkpointing: true } }))).toBeLessThanOrEqual(before);
      expect(total(run({ ...layer, lora: { enabled: true } }))).toBeLessThanOrEqual(before);
    }),
  );
});

describe("refusals", () => {
  test("3B with adapters fits an A100 of 80 GB; all of its weights do not, and the message says what would", () => {
    const layer = {
      max_completion_length: 512,
      tokens_per_microbatch: 4096,
      actors: { device: "cuda", dtype: "float16", max_rows: 128 },
      model: { gradient_checkpointing: true },
    };
    const adapters = run({ ...layer, lora: { enabled: true } });
    expect(fits(planMemory(adapters, qwen3b, machine(80e9, 256e9)))).toBe(true);
    const full = run(layer);
    const plan = planMemory(full, qwen3b, machine(80e9, 256e9));
    expect(fits(plan)).toBe(false);
    expect(refusal(plan)).toMatch(
      /GPU 0: expected at most 80\.00 GB, the plan needs .*learner: AdamW: two moments +24\.69 GB +--lora\.enabled/s,
    );
  });

  test("the largest items come first, with the keys that change them", () => {
    const plan = planMemory(run({}), qwen3b, machine(null, 1e9));
    const lines = refusal(plan).split("\n");
    expect(lines[1]).toMatch(/^RAM: expected at most 1\.00 GB/);
    const sizes = lines.slice(2, -1).map((line) => Number(/([\d.]+) GB/.exec(line)![1]));
    expect(sizes).toHaveLength(5);
    expect(sizes).toEqual(sizes.toSorted((a, b) => b - a));
    expect(refusal(plan)).toContain("--model.gradient_checkpointing");
  });
});

// a study is a plan of runs, and names their configurations
const runFiles = readdirSync(join(root, "configs")).filter((file) => !file.startsWith("study"));
test.each(runFiles)("configs/%s plans, and what runs on a laptop fits one", (file) => {
  for (const algo of ["grpo", "ppo"] as const) {
    const { config } = loadConfig({ algo, files: [join("configs", file)] });
    const plan = planMemory(
      config,
      readModelConfig(join(root, "assets/starter")),
      machine(null, 16e9, config.actors.num),
    );
    expect(plan.processes.map(({ name }) => name)).toContain("learner");
    expect(fits(plan)).toBe(true);
  }
});
