/**
 * What a learner will hold, by item, from shapes alone. Each formula names the code that allocates.
 * Legend: P trainable parameters. A microbatch has N tokens, M completion tokens and g groups.
 * H hidden, q and kv widths of queries and keys, I intermediate, V vocabulary, L layers.
 * Everything is float32.
 */
import { needsReference } from "../../config/derived.js";
import type { RunConfig } from "../../config/schema.js";
import { MAX_REMEMBERED } from "../../learner/logprob-gap.js";
import { ADAM_PART_SIZE, ADAM_TEMPORARIES } from "../../learner/policy/optimizer.js";
import { PART_SIZES } from "../../learner/policy/part-sizes.js";
import type { ModelConfig } from "../../model/config.js";
import { layoutSize, weightLayout } from "../../model/layout.js";
import { publishedLayout } from "../../model/identity.js";
import { itemsOn } from "./actor-memory.js";
import type { MemoryItem } from "./memory-plan.js";

/** Arrays of a chunk's size that exist at once in the gradient, see token-logprobs.ts. */
const LOGITS_COPIES = { frozenHead: 2, other: 3 };
/** TensorFlow's BFC allocator peaks above the tensors by this share (measured: SmolLM2-135M). */
const BFC_FRAGMENTS = 0.2;

/** The largest microbatch of packing.ts over groups of the longest prompts and completions. */
export function microbatchShape(run: RunConfig): { groups: number; tokens: number; targets: number; several: boolean } {
  const [prompt, completion] = [run.data.max_prompt_length, run.max_completion_length];
  const rows = run.num_generations;
  const groupTokens = prompt + rows * (completion - 1);
  const parts = run.algo === "grpo" ? run.steps_per_generation : run.num_mini_batches;
  const perStep = run.generation_batch_size / rows / parts;
  const groups = Math.max(1, Math.min(perStep, Math.floor(run.tokens_per_microbatch / groupTokens)));
  return { groups, tokens: groups * groupTokens, targets: groups * rows * completion, several: groups < perStep };
}

/** Lists every item of the learner whose tensors live on `where`; JavaScript's are in RAM. */
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
  const { groups: g, tokens: N, targets: M, several } = microbatchShape(run);
  const trunks = separate ? 2 : 1;

  // model.ts: the frozen tensors are the base under LoRA, the reference policy otherwise.
  const frozen = lora !== null || needsReference(run) ? base : 0;
  // step.ts: the views (`splitFlat` copies), their gradients, the concatenation, and the sum.
  const copies = 3 + Number(several);
  // A tied embedding has two gradients, of lookup and head, and their sum, while the others wait.
  const embedding = lora === null ? 2 * V * H : 0;

  // policy.ts, a block in halves. The tape saves the normed x, its product with the norm's weight;
  // attention's gathered q, k, v and output, and its result; silu's three and the input of
  // down_proj. An adapter's r twice, and its gradient.
  const r = lora?.r ?? 0;
  const isMlp = (module: string): boolean => /^(gate|up|down)_proj$/.test(module);
  const adapters = (inMlp: boolean): number =>
    3 * r * (lora?.target_modules.filter((module) => isMlp(module) === inMlp).length ?? 0);
  const [prompt, completion] = [run.data.max_prompt_length, run.max_completion_length - 1];
  // attention.ts: probabilities of prompts, and of completions over prompt and own tokens.
  const probs = g * model.numHeads * (prompt * prompt + run.num_generations * completion * (prompt + completion));
  const attentionSaved = N * (2 * H + 3 * q + 2 * kv + adapters(false)) + probs;
  const mlpSaved = (rows: number): number => rows * (2 * H + 4 * I + adapters(true));
  // Temporaries of the gradient functions of attention and swiGlu; gradients go as they are used.
  const attentionWork = 3 * probs + 6 * N * q;
  const mlpWork = (rows: number): number => 6 * rows * I;
  const sizes = PART_SIZES[where === "gpu" ? "gpu" : "cpu"];
  const headRows = Math.max(1, Math.floor(sizes[lora === null ? "trainedHead" : "frozenHead"] / V));
  const logits =
    Math.min(M, headRows) * V * LOGITS_COPIES[lora !== null && run.entropy_coef === 0 ? "frozenHead" : "other"];
  // The final norm and the states that predict, with their gradients.
  const ends = 2 * N * H + 2 * M * H;
  let kept = trunks * L * (attentionSaved + mlpSaved(N));
  let workspace = Math.max(attentionWork, mlpWork(N), logits);
  if (run.model.gradient_checkpointing) {
    // Of each half its input is kept; one half at a time is computed anew.
    const rows = Math.min(N, Math.max(1, Math.floor(sizes.mlp / I)));
    kept = trunks * L * 2 * N * H;
    workspace = Math.max(attentionSaved + attentionWork, mlpSaved(rows) + mlpWork(rows), logits);
  }
  const activations = kept + ends;

  const bytes = 4;
  const step = (copies * P + embedding + activations + workspace) * bytes;
  const item = (name: string, elements: number, key?: string) => itemsOn(where)(name, elements * bytes, key);
  const inRam = (name: string, elements: number) => itemsOn("ram")(name, elements * bytes);
  return [
    item(lora === null ? "reference policy" : "frozen base", frozen, lora === null ? "beta, kl_coef" : "model.path"),
    // products.ts: two bytes an element; where "auto" takes float32, nothing
    ...(lora === null || run.learner.matmul === "float32"
      ? []
      : [item("the base rounded to bfloat16", frozen / 2, "learner.matmul")]),
    item("trainable vector", P, "lora.enabled"),
    item("AdamW: two moments", 2 * P, "lora.enabled"),
    item("gradient and views of the vector", copies * P + embedding, "lora.enabled"),
    item(
      `activations (${N} tokens)`,
      activations,
      run.model.gradient_checkpointing ? "tokens_per_microbatch" : "model.gradient_checkpointing",
    ),
    item(
      "logits or largest block's workspace",
      Math.max(workspace, ADAM_TEMPORARIES * ADAM_PART_SIZE),
      "tokens_per_microbatch",
    ),
    { name: "fragments of TensorFlow's allocator", bytes: step * BFC_FRAGMENTS, where },
    // model.ts, `published`; remote-source.ts, two buffers shared with the dispatcher's thread
    inRam("published weights: a copy and two shared buffers", 3 * published),
    // weight-server.ts, a file for the actors of this machine
    { ...inRam("published weights as a file in /dev/shm", published), shared: true as const },
    // logprob-gap.ts
    inRam(
      "weights remembered for the logprob gap",
      published <= MAX_REMEMBERED ? (run.max_staleness + 1) * published : 0,
    ),
  ].filter((one) => one.bytes > 0);
}
