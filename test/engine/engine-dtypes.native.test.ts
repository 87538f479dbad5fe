/**
 * The graphs with weights as initializers and LoRA beside the base: float16, made for CUDA, and
 * int8. All run on the CPU.
 */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { OrtEngine } from "../../src/engine/engine.js";
import type { EngineOptions, GeneratedGroup, GenerateRequest } from "../../src/engine/engine-types.js";
import { quantize } from "../../src/engine/graph/int8.js";
import { UserError } from "../../src/errors.js";
import { parseModelConfig, type ModelConfig } from "../../src/model/config.js";
import { layoutSize, weightLayout, type LayoutEntry } from "../../src/model/layout.js";
import { loraLayout } from "../../src/model/lora.js";
import { writeSafetensors } from "../../src/model/safetensors/write.js";
import { hashPacked } from "../../src/model/identity.js";
import { tinyWeights } from "../support/tiny.js";

const shape = {
  vocab_size: 103,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
};
const configs = {
  "qwen2, tied head": parseModelConfig({ ...shape, model_type: "qwen2", tie_word_embeddings: true }, "test"),
  "llama, own head": parseModelConfig({ ...shape, model_type: "llama", tie_word_embeddings: false }, "test"),
};
/** Heads that GroupQueryAttention rotates: float16 decodes by grouped-segment.ts. */
const wide = { ...shape, hidden_size: 64 };
const wideConfigs = {
  "qwen2, heads of 16": parseModelConfig({ ...wide, model_type: "qwen2", tie_word_embeddings: true }, "test"),
  "llama, heads of 16": parseModelConfig({ ...wide, model_type: "llama", tie_word_embeddings: false }, "test"),
};
const HALF: EngineOptions = { threads: 1, maxRows: 5, segmentLength: 3, dtype: "float16" };
const FULL: EngineOptions = { threads: 1, maxRows: 5, segmentLength: 3 };

/** Groups of unequal prompts and completions, more than fit the batch at once. */
const requests: GenerateRequest[] = [7, 1, 12].map((length, i) => ({
  requestId: `g${i}`,
  promptIds: Int32Array.from({ length }, (_, t) => (13 * t + 5 * i) % 103),
  groupSize: 2,
  seed: BigInt(i),
  sampling: { temperature: 1, maxNewTokens: 1, stopIds: [] },
  forced: [4, 9].map((n) => Int32Array.from({ length: n }, (_, t) => (17 * t + n + i) % 103)),
}));

async function logprobs(engine: OrtEngine): Promise<number[]> {
  for (const request of requests) engine.submit(request);
  const groups = new Map<string, GeneratedGroup>();
  while (engine.pending > 0) for (const group of await engine.step()) groups.set(group.requestId, group);
  return requests.flatMap(({ requestId }) =>
    groups.get(requestId)!.completions.flatMap((completion) => [...completion.logprobs]),
  );
}

const largestGap = (a: readonly number[], b: readonly number[]): number => {
  expect(a).toHaveLength(b.length);
  return Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));
};
const weights = (layout: readonly LayoutEntry[], seed: number, scale: number) =>
  tinyWeights(layout, seed).map((x) => x * scale);

const cudaLoads = await OrtEngine.create(configs["qwen2, tied head"], { ...HALF, device: "cuda" }).then(
  () => true,
  () => false,
);
const folder = mkdtempSync(join(tmpdir(), "half-"));
afterAll(() => rmSync(folder, { recursive: true }));
function modelFolder(config: ModelConfig, packed: Float32Array): string {
  const tensors = weightLayout(config).map(({ name, shape: dims, offset, size }) => ({
    name,
    shape: dims,
    data: packed.subarray(offset, offset + size),
  }));
  writeSafetensors(join(folder, "model.safetensors"), tensors);
  writeFileSync(join(folder, "config.json"), "{}");
  return folder;
}

const INT8: EngineOptions = { ...FULL, dtype: "int8" };
/** By how much log-probabilities may differ from float32's, and surely do. */
const kinds: [string, EngineOptions, { readonly most: number; readonly least: number }, Record<string, ModelConfig>][] =
  [
    ["float16", HALF, { most: 2e-2, least: 1e-6 }, { ...configs, ...wideConfigs }],
    ["int8", INT8, { most: 0.1, least: 1e-4 }, configs],
    ["float32 by grouped-segment.ts", { ...FULL, fused: true }, { most: 1e-5, least: 0 }, wideConfigs],
  ];

describe.each(
  kinds.flatMap(([dtype, options, gap, models]) =>
    Object.entries(models).map(([name, config]) => ({ dtype, options, gap, name, config })),
  ),
)("$dtype, $name", ({ options, gap: { most, least }, config }) => {
  const layout = weightLayout(config);

  it("whole policies: the logprobs and the hash are float32's, before and after a refresh", async () => {
    const rounded = await OrtEngine.create(config, options);
    const full = await OrtEngine.create(config, FULL);
    const seen: number[][] = [];
    for (const seed of [1, 2]) {
      const packed = weights(layout, seed, 0.7);
      const version = await rounded.load(packed, seed);
      expect(version).toEqual({ iteration: seed, sha256: hashPacked(packed, layout) });
      await full.load(packed, seed);
      seen.push(await logprobs(rounded));
      const gap = largestGap(seen.at(-1)!, await logprobs(full));
      expect(gap).toBeLessThan(most);
      expect(gap).toBeGreaterThanOrEqual(least);
    }
    expect(largestGap(seen[0]!, seen[1]!)).toBeGreaterThan(0.1);
    await rounded.dispose();
    await full.dispose();
  });

  it.each([
    ["all modules", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]],
    ["k and down only", ["k_proj", "down_proj"]],
  ])("LoRA beside the base, %s: as merged into it in float32, with the same hash", async (_name, target_modules) => {
    const spec = { r: 3, lora_alpha: 6, lora_dropout: 0, target_modules };
    const packed = weights(layout, 1, 0.7);
    const lora = { spec, baseFolder: modelFolder(config, packed) };
    const rounded = await OrtEngine.create(config, options, lora);
    const full = await OrtEngine.create(config, FULL, lora);
    const adapterLayout = loraLayout(config, spec);
    const base = new Float32Array(layoutSize(adapterLayout));
    const adapters = weights(adapterLayout, 3, 0.5);
    await rounded.load(base, 0);
    const without = await logprobs(rounded);
    expect(await rounded.load(adapters, 1)).toEqual(await full.load(adapters, 1));
    const withAdapters = await logprobs(rounded);
    expect(largestGap(withAdapters, await logprobs(full))).toBeLessThan(most);
    expect(largestGap(withAdapters, without)).toBeGreaterThan(0.1);
    await rounded.dispose();
    await full.dispose();
  });
});

it("int8 rounds each row by itself: an answer is the same alone and beside others, up to rounding", async () => {
  const config = configs["qwen2, tied head"];
  const engine = await OrtEngine.create(config, INT8);
  await engine.load(weights(weightLayout(config), 4, 0.7), 0);
  const together = await logprobs(engine);
  const alone: number[] = [];
  for (const request of requests) {
    engine.submit(request);
    while (engine.pending > 0)
      for (const group of await engine.step()) for (const { logprobs } of group.completions) alone.push(...logprobs);
  }
  expect(largestGap(together, alone)).toBeLessThan(1e-5);
  await engine.dispose();
});

it("int8 weights are rounded to nearest, a scale for each output, and turned", () => {
  const width = 70;
  const weight = Float32Array.from({ length: 130 * width }, (_, i) => Math.sin(i) * (1 + (i % 7)));
  weight.fill(0, 3 * width, 4 * width);
  const { values, scales } = quantize(weight, width);
  for (let o = 0; o < 130; o++) {
    const row = weight.subarray(o * width, (o + 1) * width);
    const largest = Math.max(...row.map(Math.abs));
    if (largest > 0) expect(scales[o]).toBeCloseTo(largest / 127, 6);
    row.forEach((value, i) => {
      const error = Math.abs(values[i * 130 + o]! * scales[o]! - value);
      expect(error).toBeLessThanOrEqual(scales[o]! * 0.5001);
    });
  }
});

it("greedy tokens of float16 are as probable in float32 as float32's own, within its rounding", async () => {
  const config = configs["qwen2, tied head"];
  const packed = weights(weightLayout(config), 4, 0.7);
  const [half, full] = [await OrtEngine.create(config, HALF), await OrtEngine.create(config, FULL)];
  const answer = async (engine: OrtEngine, over: Partial<GenerateRequest>) => {
    await engine.load(packed, 0);
    const { forced: _, ...request } = requests[0]!;
    engine.submit({ ...request, groupSize: 1, sampling: { temperature: 0, maxNewTokens: 20, stopIds: [] }, ...over });
    for (;;) for (const group of await engine.step()) return group.completions[0]!;
  };
  const { ids } = await answer(half, {});
  const measured = await answer(full, { forced: [ids], top: true });
  expect(ids).toHaveLength(20);
  measured.logprobs.forEach((value, t) => expect(measured.top!.logprobs[t]! - value).toBeLessThan(2e-2));
  await half.dispose();
  await full.dispose();
});

it("leaves no file of weights behind", async () => {
  const before = readdirSync("/dev/shm");
  const engine = await OrtEngine.create(configs["qwen2, tied head"], HALF);
  await engine.load(weights(weightLayout(configs["qwen2, tied head"]), 1, 0.7), 0);
  expect(readdirSync("/dev/shm").filter((name) => !before.includes(name) && name.startsWith("finellama-"))).toEqual([]);
  await engine.dispose();
});

// On a machine where the provider loads there is nothing to refuse.
it.skipIf(cudaLoads)("cuda without its libraries fails at once, and says what is missing", async () => {
  const config = configs["qwen2, tied head"];
  const creating = OrtEngine.create(config, { ...HALF, device: "cuda" });
  await expect(creating).rejects.toThrow(UserError);
  await expect(creating).rejects.toThrow(/device is cuda.*libonnxruntime_providers_cuda.so/);
});
