/**
 * What a rollout actor will hold, by item, from shapes alone. Each formula names the code that
 * allocates. Legend: H hidden, q and kv widths of queries and keys, I intermediate, V vocabulary,
 * L layers. Prompts in flight are most in the self-test and in evaluations.
 */
import { adapterInputs } from "../../engine/graph/adapters.js";
import { isFused } from "../../engine/graph/numeric.js";
import { beyondPrefill, byteLength, storedWeights, type StoredWeight } from "../../engine/graph/weight-file.js";
import type { RunConfig } from "../../config/schema.js";
import type { ModelConfig } from "../../model/config.js";
import { layoutSize, weightLayout } from "../../model/layout.js";
import { publishedLayout } from "../../model/identity.js";
import { SELFTEST_COMPLETIONS } from "../../learner/logprob-gap.js";
import { PREFILL_SCORES } from "../../engine/batch.js";
import type { MemoryItem } from "./memory-plan.js";

/** sampling.ts: logits over temperature, their exponentials, and one of the two before it. */
const VOCABULARY_ARRAYS = 3;
/** qwen2.ts, attention: scores, masked scores, probabilities. */
const SCORE_ARRAYS = 3;
/** Constants live as protobuf in JavaScript, as the runtime's copy and as session tensors. */
const CONSTANT_COPIES = 3;

export const itemsOn =
  (where: MemoryItem["where"]) =>
  (name: string, bytes: number, key?: string): MemoryItem =>
    key === undefined ? { name, bytes, where } : { name, bytes, where, key };

/** Lists every item of one actor whose tensors live on `where`; JavaScript's are in RAM. */
export function actorItems(run: RunConfig, model: ModelConfig, where: MemoryItem["where"]): MemoryItem[] {
  const { hiddenSize: H, intermediateSize: I, vocabSize: V, numLayers: L } = model;
  const q = model.numHeads * model.headDim;
  const kv = model.numKvHeads * model.headDim;
  const half = run.actors.dtype === "float16";
  // bytes of an element of linear layers, keys and values
  const width = half ? 2 : 4;
  const rows = run.actors.max_rows;
  const validated = run.eval.sampled || run.eval.greedy ? run.eval.num_problems : 0;
  // Each completion of the self-test and of an evaluation has a prompt of its own.
  const groups = Math.min(rows, Math.max(Math.floor(rows / run.num_generations), SELFTEST_COMPLETIONS, validated));
  const [prompt, completion] = [run.data.max_prompt_length, run.max_completion_length];
  const segment = Math.min(run.actors.segment_length, completion);

  const perToken = 2 * L * kv; // keys and values of all layers
  const prefillPrompts = Math.max(1, Math.min(groups, Math.floor(PREFILL_SCORES / (model.numHeads * prompt * prompt))));
  const prefillTokens = prefillPrompts * prompt;
  // What a block's attention used is free again for its MLP.
  const prefill =
    prefillTokens * (perToken + 4 * H) +
    Math.max(
      prefillTokens * (3 * q + 2 * kv) + SCORE_ARRAYS * prefillPrompts * model.numHeads * prompt * prompt,
      prefillTokens * 3 * I,
    );
  const decode =
    VOCABULARY_ARRAYS * rows * V +
    rows * (4 * H + 3 * q + 2 * kv + 3 * I) +
    SCORE_ARRAYS * rows * model.numHeads * (prompt + completion);
  const fused = isFused(model, run.actors.dtype);
  /** Tokens in the caches that a decode graph reads, and in those that grow in its loop. */
  const read = fused ? rows * (prompt + completion) : rows * completion + groups * prompt;
  const growing = fused ? read : rows * segment;
  const recent = 2 * growing * perToken; // loop-carried: the grown copy beside the one before
  const rope = 2 * (model.maxPositions + segment) * (model.headDim / 2);

  // With LoRA the sessions are made once, before there is work; else at every new policy.
  const phase = run.lora.enabled ? { phase: "work" as const } : {};
  const on = (...item: Parameters<ReturnType<typeof itemsOn>>) => ({ ...itemsOn(where)(...item), ...phase });
  const inRam = (...item: Parameters<ReturnType<typeof itemsOn>>) => ({ ...itemsOn("ram")(...item), ...phase });
  return [
    ...weightItems(run, model, where),
    // engine.ts `prefill`: each group's own; kv-cache.ts `PromptCache`: the same side by side
    inRam("keys and values of prompts", (fused ? 1 : 2) * groups * prompt * perToken * width, "actors.max_rows"),
    // `GeneratedCache` or `RowCache`: two sets of buffers, rows are copied from one to the other
    inRam(
      "keys and values of completions, two sets",
      2 * rows * (fused ? prompt + completion : completion) * perToken * width,
      "actors.max_rows",
    ),
    // engine.ts: the runtime's outputs, once more as JavaScript arrays
    inRam(
      "keys and values of the last segment",
      (rows * segment + prefillTokens) * perToken * width,
      "actors.max_rows",
    ),
    on("keys and values of a run's inputs", where === "gpu" ? read * perToken * width : 0, "actors.max_rows"),
    on("keys and values grown in a segment", recent * width, "actors.max_rows"),
    // Two sessions with an arena each; neither gives anything back.
    on("prefill: scores, activations", prefill * 4, "data.max_prompt_length"),
    on("decoding: logits, sampling, activations", decode * 4, "actors.max_rows"),
    on("rotary tables of both graphs", 2 * CONSTANT_COPIES * rope * 4),
  ].filter((one) => one.bytes > 0);
}

function weightItems(run: RunConfig, model: ModelConfig, where: MemoryItem["where"]): MemoryItem[] {
  const lora = run.lora.enabled ? run.lora : null;
  const base = layoutSize(weightLayout(model));
  const published = layoutSize(publishedLayout(model, lora));
  const [onGpu, inRam] = [itemsOn(where), itemsOn("ram")];
  // weight-fetcher.ts: one buffer, used again
  const staging = inRam("staging of fetched weights", published * 4, "lora.enabled");
  const { dtype } = run.actors;
  if (where === "ram" && dtype === "float32") {
    return [
      staging,
      // weights-as-inputs.ts: read in place
      inRam("weights", base * 4, "lora.enabled"),
      // adapter.ts: what arrived, and room for a matrix of the base
      ...(lora === null
        ? []
        : [
            inRam(
              "adapters as they are merged, and a matrix",
              (published + model.hiddenSize * model.intermediateSize) * 4,
              "lora.r",
            ),
          ]),
    ];
  }
  // weights-as-initializers.ts: two sessions, each with a copy of what it uses.
  // Without LoRA a new policy is two new sessions, and the old ones go before the new ones come.
  const stored = storedWeights(model, dtype);
  const unused = beyondPrefill(model, dtype);
  const sum = (weights: readonly StoredWeight[]): number =>
    weights.reduce((bytes, weight) => bytes + byteLength(weight), 0);
  const phase = lora === null ? {} : { phase: "start" as const };
  const items = [
    staging,
    onGpu("weights of the decode session", sum(stored), "actors.dtype"),
    onGpu("weights of the prefill session", sum(stored.filter(({ name }) => !unused.has(name))), "actors.dtype"),
    {
      ...inRam("weights as a file in /dev/shm while sessions are made", sum(stored), "actors.dtype"),
      shared: true as const,
      ...phase,
    },
    {
      ...inRam(
        "the largest parameter while that file is written",
        Math.max(...weightLayout(model).map(({ size }) => size)) * 4,
        "model.path",
      ),
      ...phase,
    },
  ];
  if (lora === null) return items;
  const size = ({ shape }: { shape: readonly number[] }): number => shape.reduce((a, b) => a * b, 1);
  const inputs = adapterInputs(model, lora, isFused(model, dtype)).reduce(
    (all, { a, b }) => all + size(a) + size(b),
    0,
  );
  return [
    ...items,
    // inputs of every run: copied into the arena of the session that runs, which keeps the room
    onGpu("adapters in both sessions", 2 * inputs * (dtype === "float16" ? 2 : 4), "lora.r"),
    // `load`: the copy of what arrived, and what is fed
    inRam("adapters as they are fed, and a copy", inputs * (dtype === "float16" ? 2 : 4) + published * 4, "lora.r"),
  ];
}
