import { describe, expect, it } from "vitest";
import { runConfigSchema } from "../../../src/config/schema.js";
import { gpuTime } from "../../../src/launcher/plan/gpu-time.js";
import { parseModelConfig } from "../../../src/model/config.js";

const qwen3b = parseModelConfig(
  {
    model_type: "qwen2",
    vocab_size: 151_936,
    hidden_size: 2048,
    intermediate_size: 11_008,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    max_position_embeddings: 32_768,
    tie_word_embeddings: true,
  },
  "test",
);
const run = (changes: object = {}) =>
  runConfigSchema.parse({
    model: { path: "m", gradient_checkpointing: true },
    lora: { enabled: true, r: 32 },
    data: { max_prompt_length: 384 },
    max_steps: 300,
    generation_batch_size: 256,
    num_generations: 8,
    max_completion_length: 512,
    tokens_per_microbatch: 16_384,
    actors: { device: "cuda", dtype: "float16", max_rows: 128, segment_length: 128 },
    ...changes,
  });

describe("the model of a run's time on a GPU", () => {
  it("is what docs/cuda.md works out by hand for Qwen2.5-3B", () => {
    const time = gpuTime(run(), qwen3b, "A100", 1);
    expect(time.rows).toBe(128);
    expect(time.stepMs).toBeCloseTo(11.8, 1);
    expect(time.rolloutSeconds).toBeCloseTo(18.3, 1);
    expect(time.learnerSeconds).toBeCloseTo(12.7, 1);
    expect(time.hours).toBeCloseTo((300 * time.iterationSeconds) / 3600, 6);
  });

  it("says more for PPO, for more layers, and less for a faster card and for more actors", () => {
    const grpo = gpuTime(run(), qwen3b, "A100", 1);
    expect(gpuTime(run({ algo: "ppo" }), qwen3b, "A100", 1).learnerSeconds).toBeGreaterThan(1.2 * grpo.learnerSeconds);
    expect(gpuTime(run(), qwen3b, "H100", 1).hours).toBeLessThan(grpo.hours);
    expect(gpuTime(run(), qwen3b, "A100", 4).rolloutSeconds).toBeLessThan(grpo.rolloutSeconds / 2);
    expect(gpuTime(run(), { ...qwen3b, numLayers: 72 }, "A100", 1).hours).toBeGreaterThan(1.6 * grpo.hours);
  });
});
