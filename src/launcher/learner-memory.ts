/**
 * What a learner will hold, by item, from shapes alone. Each formula names the code that allocates.
 *
 * Legend: P trainable parameters, N tokens of a microbatch, M completion tokens of it, g groups in it, H hidden,
 * q and kv widths of queries and keys, I intermediate, V vocabulary, L layers. Everything is float32.
 */
import type { RunConfig } from "../config/schema.js";
import type { ModelConfig } from "../model/config.js";
import { layoutSize, weightLayout } from "../model/layout.js";
import { publishedLayout } from "../model/published.js";
import type { MemoryItem } from "./memory-plan.js";

/** primitives.ts, MAX_LOGITS: logits of one chunk, in elements. */
const MAX_LOGITS = 64 * 1024 * 1024;
/** primitives.ts, `distribution`: arrays of a chunk's size that exist at once. */
const LOGITS_COPIES = 3;
/** optimizer.ts, PART_SIZE times its temporaries. */
const ADAM_TEMPORARIES = 20 * 4 * 1024 * 1024;
/** logprob-gap.ts, MAX_SIZE: larger published vectors are not remembered. */
const REMEMBERED = 64 * 1024 * 1024;
/**
 * TensorFlow's BFC allocator (GPU; oneDNN's on the CPU) never gives a region back and cuts best fits to pieces: its peak lies
 * above the tensors' by this share. Measured once: SmolLM2-135M, full fine-tuning, third step over first.
 */
const BFC_FRAGMENTS = 0.2;

/** Tokens of the largest microbatch of an iteration: packing.ts, `microbatches` over groups of the longest prompts and completions. */
export function microbatchShape(run: RunConfig): { groups: number; tokens: number; targets: number; several: boolean } {
  const [prompt, completion] = [run.data.max_prompt_length, run.max_completion_length];
  const rows = run.num_generations;
  const groupTokens = prompt + rows * (completion - 1);
  const parts = run.algo === "grpo" ? run.steps_per_generation : run.num_mini_batches;
  const perStep = run.generation_batch_size / rows / parts;
  const groups = Math.max(1, Math.min(perStep, Math.floor(run.tokens_per_microbatch / groupTokens)));
  return { groups, tokens: groups * groupTokens, targets: groups * rows * completion, several: groups < perStep };
}

/** Every item of the learner, on `where` its tensors live; what JavaScript holds is in RAM. */
export function learnerItems(run: RunConfig, model: ModelConfig, where: MemoryItem["where"]): MemoryItem[] {
  const { hiddenSize: H, intermediateSize: I, vocabSize: V, numLayers: L } = model;
  const q = model.numHeads * model.headDim;
  const kv = model.numKvHeads * model.headDim;
  const lora = run.lora.enabled ? run.lora : null;
  const base = layoutSize(weightLayout(model));
  const published = layoutSize(publishedLayout(model, lora));
  const separate = run.algo === "ppo" && run.value_model === "separate";
  const head = run.algo === "ppo" ? H + 1 : 0;
  const P = published * (separate ? 2 : 1) + head;
  const reference = run.algo === "grpo" ? run.beta > 0 : run.kl_coef > 0;
  const { groups: g, tokens: N, targets: M, several } = microbatchShape(run);
  const trunks = separate ? 2 : 1;

  // model.ts: the frozen tensors are the base under LoRA, the reference policy otherwise.
  const frozen = lora !== null || reference ? base : 0;
  // update.ts, #step: the views (`splitFlat` copies), a gradient for each of them, their concatenation, and the sum over microbatches.
  const copies = 3 + Number(several);
  // A tied embedding has two gradients, of lookup and head, and their sum, while the other views' gradients wait.
  const embedding = lora === null ? 2 * V * H : 0;

  // policy.ts, `block`. What the tape saves of one: normed x and its product with the weight (twice), attention's gathered
  // q, k, v and output, its result, silu's three and the input of down_proj.
  const r = lora === null ? 0 : lora.r * lora.target_modules.length;
  const saved = 4 * H + 3 * q + 2 * kv + 4 * I + 2 * r;
  // What tfjs keeps of a backward pass until its end: the gradient of every value on the tape.
  const kept = 4 * H + 3 * q + 3 * kv + 3 * I + 2 * r;
  const [prompt, completion] = [run.data.max_prompt_length, run.max_completion_length - 1];
  // primitives.ts, `attention`: probabilities of prompts, and of completions over prompt and own tokens.
  const probs = g * model.numHeads * (prompt * prompt + run.num_generations * completion * (prompt + completion));
  // Temporaries of the gradient functions of attention (scores, their gradient, its parts) and swiGlu, not both at once.
  const workspace = Math.max(6 * probs + 6 * N * q, 6 * N * I);
  const blocks = run.model.gradient_checkpointing
    ? trunks * L * N * 2 * H + N * (saved + kept) + probs
    : trunks * L * (N * (saved + kept) + probs);
  const logits = Math.min(M, Math.max(1, Math.floor(MAX_LOGITS / V))) * V * LOGITS_COPIES;

  const bytes = 4;
  const step = (copies * P + embedding + blocks + Math.max(workspace, logits)) * bytes;
  const item = (name: string, elements: number, key?: string): MemoryItem => ({
    name,
    bytes: elements * bytes,
    where,
    ...(key !== undefined && { key }),
  });
  const inRam = (name: string, elements: number): MemoryItem => ({ name, bytes: elements * bytes, where: "ram" });
  return [
    item(lora === null ? "reference policy" : "frozen base", frozen, lora === null ? "beta, kl_coef" : "model.path"),
    item("trainable vector", P, "lora.enabled"),
    item("AdamW: two moments", 2 * P, "lora.enabled"),
    item("gradient and views of the vector", copies * P + embedding, "lora.enabled"),
    item(
      `activations and their gradients (${N} tokens)`,
      blocks,
      run.model.gradient_checkpointing ? "tokens_per_microbatch" : "model.gradient_checkpointing",
    ),
    item("logits or largest block's workspace", Math.max(workspace, logits, ADAM_TEMPORARIES), "tokens_per_microbatch"),
    { name: "fragments of TensorFlow's allocator", bytes: step * BFC_FRAGMENTS, where },
    // model.ts, `published`; remote-source.ts, two buffers shared with the dispatcher's thread
    inRam("published weights: a copy and two shared buffers", 3 * published),
    // weight-server.ts, a file for the actors of this machine
    { ...inRam("published weights as a file in /dev/shm", published), shared: true as const },
    // logprob-gap.ts
    inRam("weights remembered for the logprob gap", published <= REMEMBERED ? (run.max_staleness + 1) * published : 0),
  ].filter((one) => one.bytes > 0);
}
