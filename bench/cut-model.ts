/**
 * Qwen2.5-3B's exact shape cut to two layers, with weights, adapters and a rollout batch that are
 * formulas: a hash of the index of each number. test/reference/qwen3b_cut_reference.py repeats the
 * formulas in numpy, so both languages compute with the same 465 million numbers and no file of
 * them is committed. Knows no learner and no actor.
 */
import { cpSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TrainingBatch } from "../src/learner/rollouts/rollout-source.js";
import { parseModelConfig, type ModelConfig } from "../src/model/config.js";
import { layoutSize, weightLayout, type LayoutEntry } from "../src/model/layout.js";
import { writeSafetensors } from "../src/model/safetensors/write.js";
import type { Completion, Task, TrajectoryGroup } from "../src/protocol/messages.js";

/** Qwen2.5-3B's config.json with two layers. */
const cutConfig = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  hidden_size: 2048,
  intermediate_size: 11008,
  num_hidden_layers: 2,
  num_attention_heads: 16,
  num_key_value_heads: 2,
  vocab_size: 151936,
  max_position_embeddings: 32768,
  rope_theta: 1000000,
  rms_norm_eps: 1e-6,
  tie_word_embeddings: true,
  hidden_act: "silu",
  bos_token_id: 151643,
  eos_token_id: 151645,
  dtype: "bfloat16",
};

/** Token ids are hashes of this and the numbers after it: far from those of the weights. */
const FIRST_ID = 0xf0000000;

/**
 * Murmur3's 32-bit finalizer (Appleby, smhasher/src/MurmurHash3.cpp, fmix32), an integer in [0,
 * 2^32).
 */
function mixed(index: number): number {
  let x = index | 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/**
 * One tensor of the base. Matrices: odd multiples of 1/8192 in ±0.031 (deviation 0.018, Qwen's
 * initializer_range is 0.02); biases: eight times that; norms: multiples of 1/128 in [0.75, 1.25).
 * All of them are numbers of bfloat16.
 */
export function cutTensor({ name, offset, size }: LayoutEntry): Float32Array {
  const values = new Float32Array(size);
  if (name.includes("norm")) for (let i = 0; i < size; i++) values[i] = 1 + ((mixed(offset + i) >>> 26) - 32) / 128;
  else {
    const unit = name.endsWith(".bias") ? 1024 : 8192;
    for (let i = 0; i < size; i++) values[i] = (2 * (mixed(offset + i) >>> 24) - 255) / unit;
  }
  return values;
}

/** The whole base in `weightLayout` order (small shapes only). */
export function cutWeights(config: ModelConfig): Float32Array {
  const layout = weightLayout(config);
  const packed = new Float32Array(layoutSize(layout));
  for (const entry of layout) packed.set(cutTensor(entry), entry.offset);
  return packed;
}

/**
 * Trained adapters: A as PEFT starts it, uniform in ±1/sqrt(in); B, which starts at zero, uniform
 * in ±0.05. Indices go on where the base's end.
 * @param layout `loraLayout`
 */
export function cutAdapters(config: ModelConfig, layout: readonly LayoutEntry[]): Float32Array {
  const first = layoutSize(weightLayout(config));
  const packed = new Float32Array(layoutSize(layout));
  for (const { name, shape, offset, size } of layout) {
    const width = name.endsWith("lora_A.weight") ? 2 / Math.sqrt(shape[1]!) : 0.1;
    for (let i = offset; i < offset + size; i++) packed[i] = (mixed(first + i) / 2 ** 32 - 0.5) * width;
  }
  return packed;
}

/** A batch by its sizes, as the golden file has it. */
export interface CutBatch {
  readonly promptLengths: readonly number[];
  /** By prompt. */
  readonly completionLengths: readonly (readonly number[])[];
  /** By prompt and completion. */
  readonly rewards: readonly (readonly number[])[];
}

/**
 * The rollout batch: token ids by hash, counted over the batch, prompts first.
 * @param behaviour log-probabilities of all completion tokens, group by group
 */
export function cutRollouts(vocabSize: number, batch: CutBatch, behaviour: readonly number[]): TrainingBatch {
  let next = FIRST_ID;
  const ids = (length: number): Int32Array => Int32Array.from({ length }, () => mixed(next++) % vocabSize);
  const tasks = batch.promptLengths.map((length, g): Task => ({
    taskId: `b000000-${String(g).padStart(4, "0")}`,
    kind: "train",
    batch: 0,
    promptIds: ids(length),
    groupSize: batch.rewards[g]!.length,
    seed: 0n,
    minIteration: 0,
    sampling: { temperature: 1, maxNewTokens: Math.max(...batch.completionLengths.flat()), stopIds: [] },
    problem: { question: "", answer: "" },
  }));
  let token = 0;
  const groups = tasks.map(({ taskId }, g): TrajectoryGroup => ({
    taskId,
    actorId: "a",
    completions: batch.completionLengths[g]!.map((length, r): Completion => ({
      ids: ids(length),
      behaviourLogprobs: Float32Array.from(behaviour.slice(token, (token += length))),
      finishReason: "stop",
      version: { iteration: 0, sha256: "" },
      rewards: { correctness: batch.rewards[g]![r]! },
      rewardErrors: [],
      outcome: "wrong",
    })),
    timing: { queuedMs: 0, prefillMs: 0, decodeMs: 0 },
  }));
  return { batch: 0, tasks, groups, filteredGroups: 0, actorIdleSeconds: 0, actorBusySeconds: 0 };
}

/**
 * Writes the model as a Hugging Face folder in bfloat16, as Qwen publishes it, unless it is there
 * already.
 * @param tokenizer folder of the tokenizer's two files; null = the folder gets none
 */
export function makeCut(folder: string, tokenizer: string | null = null): string {
  if (existsSync(join(folder, "config.json"))) return folder;
  mkdirSync(folder, { recursive: true });
  const tensors = weightLayout(parseModelConfig(cutConfig, "cut")).map((entry) => ({
    name: entry.name,
    shape: entry.shape,
    data: () => cutTensor(entry),
  }));
  writeSafetensors(join(folder, "model.safetensors"), tensors, "BF16");
  if (tokenizer !== null)
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join(tokenizer, name), join(folder, name));
  writeFileSync(join(folder, "config.json"), JSON.stringify(cutConfig)); // last: its presence says that all is there
  return folder;
}
