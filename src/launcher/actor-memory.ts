/**
 * What a rollout actor will hold, by item, from shapes alone. Each formula names the code that allocates.
 *
 * Legend: R rows in flight, G groups (prompts) in flight, P prompt length, T completion length, S steps of a segment,
 * H hidden, q and kv widths of queries and keys, I intermediate, V vocabulary, L layers.
 */
import type { RunConfig } from "../config/schema.js";
import type { ModelConfig } from "../model/config.js";
import { layoutSize, weightLayout } from "../model/layout.js";
import { publishedLayout } from "../model/published.js";
import type { MemoryItem } from "./memory-plan.js";

/** engine.ts, PREFILL_SCORES: most scores of one prefill run. */
const PREFILL_SCORES = 2 ** 24;
/** sampling.ts: logits over temperature, their exponentials, and one of the two before it. */
const VOCABULARY_ARRAYS = 3;
/** qwen2.ts, attention: scores, masked scores, probabilities. */
const SCORE_ARRAYS = 3;
/** Graph constants live as protobuf in JavaScript, as the runtime's copy of it, and as tensors of the session. */
const CONSTANT_COPIES = 3;

/** Every item of one actor, on `where` its tensors live; what JavaScript holds is in RAM. */
export function actorItems(run: RunConfig, model: ModelConfig, where: MemoryItem["where"]): MemoryItem[] {
  const { hiddenSize: H, intermediateSize: I, vocabSize: V, numLayers: L } = model;
  const q = model.numHeads * model.headDim;
  const kv = model.numKvHeads * model.headDim;
  const half = run.actors.dtype === "float16";
  /** Of linear layers, keys and values. */
  const width = half ? 2 : 4;
  const lora = run.lora.enabled ? run.lora : null;
  const base = layoutSize(weightLayout(model));
  const published = layoutSize(publishedLayout(model, lora));
  const rows = run.actors.max_rows;
  const groups = Math.max(1, Math.floor(rows / run.num_generations));
  const [prompt, completion] = [run.data.max_prompt_length, run.max_completion_length];
  const segment = Math.min(run.actors.segment_length, completion);

  const perToken = 2 * L * kv; // keys and values of all layers
  const prefillPrompts = Math.max(1, Math.min(groups, Math.floor(PREFILL_SCORES / (model.numHeads * prompt * prompt))));
  const prefillTokens = prefillPrompts * prompt;
  const prefill =
    prefillTokens * perToken +
    SCORE_ARRAYS * prefillPrompts * model.numHeads * prompt * prompt +
    prefillTokens * (4 * H + 3 * q + 2 * kv + 3 * I);
  const decode =
    VOCABULARY_ARRAYS * rows * V +
    rows * (4 * H + 3 * q + 2 * kv + 3 * I) +
    SCORE_ARRAYS * rows * model.numHeads * (prompt + completion);
  const recent = 2 * rows * segment * perToken; // loop-carried: the grown copy beside the one before
  const rope = 2 * (model.maxPositions + segment) * (model.headDim / 2);

  const on = (name: string, bytes: number, key?: string): MemoryItem => ({
    name,
    bytes,
    where,
    ...(key !== undefined && { key }),
  });
  const inRam = (name: string, bytes: number, key?: string): MemoryItem => ({
    name,
    bytes,
    where: "ram",
    ...(key !== undefined && { key }),
  });
  const weights = weightItems(run, base, published, width, where);
  return [
    ...weights,
    // engine.ts `prefill`: each group's own keys and values; kv-cache.ts `PromptCache`: the same side by side
    inRam("keys and values of prompts", 2 * groups * prompt * perToken * width, "actors.max_rows"),
    // kv-cache.ts `GeneratedCache`: two sets of buffers, rows are copied from one to the other
    inRam("keys and values of completions, two sets", 2 * rows * completion * perToken * width, "actors.max_rows"),
    // engine.ts: the runtime's outputs, once more as JavaScript arrays
    inRam(
      "keys and values of the last segment",
      (rows * segment + prefillTokens) * perToken * width,
      "actors.max_rows",
    ),
    ...(where === "gpu"
      ? [
          on(
            "keys and values of a run's inputs",
            rows * completion * perToken * width + groups * prompt * perToken * width,
            "actors.max_rows",
          ),
        ]
      : []),
    on("keys and values grown in a segment", recent * width, "actors.max_rows"),
    // Two sessions with an arena each; neither gives anything back.
    on("prefill: scores, activations", prefill * 4, "data.max_prompt_length"),
    on("decoding: logits, sampling, activations", decode * 4, "actors.max_rows"),
    on("rotary tables of both graphs", 2 * CONSTANT_COPIES * rope * 4),
  ].filter((one) => one.bytes > 0);
}

function weightItems(
  run: RunConfig,
  base: number,
  published: number,
  width: number,
  where: MemoryItem["where"],
): MemoryItem[] {
  const lora = run.lora.enabled;
  const items: MemoryItem[] = [
    // weight-fetcher.ts: one buffer, used again
    { name: "staging of fetched weights", bytes: published * 4, where: "ram", key: "lora.enabled" },
  ];
  if (where === "ram") {
    // engine.ts: graph inputs, read in place
    items.push({ name: "weights", bytes: base * 4, where });
    // adapter.ts: merged weights are made of the base, which stays
    if (lora) items.push({ name: "base, to merge adapters into", bytes: base * 4, where });
    return items;
  }
  // On CUDA weights are initializers of two sessions (prefill and decoding).
  items.push({ name: "weights, initializers of two sessions", bytes: 2 * base * width, where, key: "actors.dtype" });
  // Full fine-tuning makes new sessions for new weights, from a file in /dev/shm, before the old ones go.
  if (!lora) {
    items.push({ name: "the next sessions while weights change", bytes: 2 * base * width, where, key: "lora.enabled" });
    items.push({
      name: "weights as a file in /dev/shm",
      bytes: base * width,
      where: "ram",
      key: "lora.enabled",
      shared: true,
    });
  }
  return items;
}
