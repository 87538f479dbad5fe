/**
 * The one schema of a training run: TRL's names and meaning where TRL has the key (GRPOConfig,
 * PPOConfig, TrainingArguments); sections only for what TRL has no name for. Unknown keys fail.
 */
import { z } from "zod";

const unit = z.number().min(0).max(1);
const count = z.int().positive();
const natural = z.int().nonnegative();
const atLeast0 = z.number().nonnegative();
const positive = z.number().positive();
const optional = positive.nullable().default(null);
/** A part with a name of its own; left out, it has its defaults. */
const section = <T extends z.ZodRawShape>(shape: T) => {
  const part = z.strictObject(shape);
  return part.prefault({} as z.input<typeof part>);
};

export const runConfigSchema = z.strictObject({
  algo: z.enum(["grpo", "ppo"]).default("grpo").describe("post-training algorithm"),
  seed: natural.default(42).describe("seed of prompt order, sampling noise, new adapters and PPO's mini-batches"),
  run_dir: z.string().nullable().default(null).describe("run directory; null = runs/<algo>-<date>-<time>"),

  model: section({
    path: z.string().default("assets/starter").describe("folder of a Hugging Face model (qwen2 or llama)"),
    gradient_checkpointing: z.boolean().default(false).describe("recompute each block in the backward pass"),
  }),
  lora: section({
    enabled: z.boolean().default(false).describe("train PEFT adapters on a frozen base instead of all weights"),
    r: count.default(16).describe("adapter rank"),
    lora_alpha: positive.default(32).describe("adapter scale is lora_alpha / r"),
    lora_dropout: z
      .number()
      .min(0)
      .max(0.99)
      .default(0)
      .describe("dropout on the adapter's input, in the gradient forward only"),
    target_modules: z
      .array(z.enum(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
      .nonempty()
      .default(["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
      .describe("linear layers that get an adapter"),
  }),
  data: section({
    train: z
      .string()
      .default("starter")
      .describe('"starter" (generated problems) or a JSONL file with question/answer'),
    validation: z.string().default("starter").describe('"starter" or a JSONL file with question/answer'),
    system_prompt: z
      .string()
      .nullable()
      .default(null)
      .describe("system message of the chat; null = the template's own default"),
    prompt_suffix: z.string().default("").describe("appended to each question"),
    max_prompt_length: count.default(512).describe("tokens; longer prompts are an error, never cut"),
  }),

  serial: z.boolean().default(false).describe("one process, strictly on-policy; as --serial"),

  // The loop
  max_steps: count.default(100).describe("training iterations, one rollout batch each"),
  generation_batch_size: count.default(256).describe("completions per iteration; a multiple of num_generations"),
  num_generations: count.default(8).describe("completions per prompt (the group)"),
  temperature: positive.default(1).describe("sampling temperature; the only sampling knob in training"),
  max_completion_length: count.default(256).describe("tokens"),
  max_staleness: natural.default(1).describe("a batch may be sampled by weights at most this many iterations old"),
  old_logprobs: z.enum(["recompute", "behaviour"]).default("recompute").describe("what the ratio's denominator is"),
  importance_sampling_cap: positive
    .default(2)
    .describe("C of the truncated actor/learner weight min(C, pi_old/pi_behaviour)"),
  filter_groups: z.boolean().default(false).describe("dynamic sampling: replace groups whose rewards are all equal"),
  filter_groups_max_rounds: count.default(4).describe("replacements per group before it is kept as it is"),

  // Optimizer (AdamW)
  learning_rate: atLeast0.default(1e-6).describe("peak rate of AdamW"),
  lr_scheduler_type: z
    .enum(["linear", "cosine", "constant"])
    .default("linear")
    .describe("after the warm-up, over the whole run"),
  warmup_steps: natural.default(0).describe("optimizer steps of linear warm-up"),
  adam_beta1: unit.default(0.9).describe("decay of the first moment"),
  adam_beta2: unit.default(0.999).describe("decay of the second moment"),
  adam_epsilon: positive.default(1e-8).describe("added to the root of the second moment"),
  weight_decay: atLeast0.default(0).describe("decoupled; none on norms and biases"),
  max_grad_norm: positive.default(1).describe("clipping by global norm"),
  tokens_per_microbatch: count
    .default(16384)
    .describe("gradient accumulation by token budget, prompts counted once per group"),

  // GRPO
  loss_type: z
    .enum(["grpo", "bnpo", "dr_grpo", "dapo"])
    .default("dapo")
    .describe("GRPO: what the sum over tokens is divided by"),
  epsilon: positive.default(0.2).describe("clip range of the ratio, below and above 1"),
  epsilon_high: optional.describe("upper clip range; null = epsilon"),
  delta: optional.describe("two-sided clipping: cap of the ratio in the unclipped term"),
  beta: atLeast0
    .default(0)
    .describe("coefficient of the k3 KL to the reference policy in the GRPO loss; 0 = no reference"),
  use_bias_correction_kl: z.boolean().default(true).describe("multiply k3 by the importance ratio"),
  scale_rewards: z
    .enum(["group", "batch", "none"])
    .default("group")
    .describe("GRPO: whose standard deviation divides the advantages"),
  num_iterations: count.default(1).describe("passes over each batch"),
  steps_per_generation: count.default(1).describe("optimizer steps per pass over a batch"),
  importance_sampling_level: z
    .enum(["token", "sequence"])
    .default("token")
    .describe("GRPO: one ratio per token, or one per completion (GSPO)"),
  mask_truncated_completions: z
    .boolean()
    .default(false)
    .describe("completions cut off by max_completion_length add nothing to the losses"),
  entropy_coef: z.number().default(0).describe("entropy bonus in the loss"),

  // PPO
  gamma: unit.default(1).describe("PPO: discount"),
  lam: unit.default(0.95).describe("PPO: lambda of GAE"),
  cliprange: positive.default(0.2).describe("PPO: clip range of the ratio, below and above 1"),
  cliprange_value: positive.default(0.2).describe("PPO: clip range of values around the old ones"),
  vf_coef: atLeast0.default(0.1).describe("PPO: weight of the value loss"),
  kl_coef: atLeast0.default(0).describe("per-token KL reward; 0 = no reference policy"),
  kl_estimator: z.enum(["k1", "k3"]).default("k1").describe("PPO: estimator of the per-token KL"),
  kl_target: optional.describe("adaptive KL: target; null = fixed kl_coef"),
  kl_horizon: count.default(10_000).describe("adaptive KL: horizon in completions"),
  num_ppo_epochs: count.default(4).describe("PPO: passes over each batch"),
  num_mini_batches: count.default(1).describe("PPO: optimizer steps per pass"),
  whiten_rewards: z.boolean().default(false).describe("PPO: scale rewards to unit variance before GAE"),
  missing_eos_penalty: optional.describe("PPO: taken off the score of a completion that does not stop; null = none"),
  bootstrap_truncated: z.boolean().default(false).describe("bootstrap V after a truncated completion instead of 0"),
  value_model: z
    .enum(["shared", "separate"])
    .default("shared")
    .describe("value head on the policy's trunk, or a trunk of its own"),
  value_learning_rate: optional.describe("learning rate of the value head (and separate trunk); null = learning_rate"),
  critic_warmup_steps: natural.default(0).describe("first iterations that train the value model only"),

  reward: section({
    functions: z
      .array(
        z.strictObject({
          name: z.string().describe("a built-in name, or a path to an ES module (./my-reward.mjs)"),
          weight: z.number().default(1),
        }),
      )
      .nonempty()
      .default([{ name: "correctness", weight: 1 }]),
    timeout_seconds: positive
      .max(2_000_000)
      .default(60)
      .describe("time of one call of a reward function; later, it counts as an error"),
    max_error_rate: unit.default(0.1).describe("stop when more than this share of a batch's reward calls fail"),
    overlong_buffer: natural.default(0).describe("soft overlong punishment over the last N tokens; 0 = off"),
  }),

  eval_steps: natural.default(0).describe("evaluate every N iterations; 0 = only before and after"),
  eval: section({
    num_problems: count.default(512).describe("held-out problems answered"),
    sampled: z.boolean().default(true).describe("one completion per problem at the training temperature"),
    greedy: z.boolean().default(true).describe("one completion per problem, always the most probable token"),
  }),
  save_steps: natural.default(50).describe("checkpoint every N iterations; 0 = only at the end"),
  save_total_limit: count.default(3).describe("older checkpoints are deleted"),
  journal: section({
    keep: count.nullable().default(null).describe("trained batches kept in trajectories/; null = all"),
  }),

  actors: section({
    num: count.default(1).describe("rollout actors on this machine"),
    device: z
      .enum(["cpu", "cuda"])
      .default("cpu")
      .describe("where actors compute; cuda fails at start where it cannot be used"),
    dtype: z
      .enum(["float32", "float16", "int8"])
      .default("float32")
      .describe("of linear layers, keys and values; float16 is meant for cuda; int8 is for linear layers on a CPU"),
    threads: natural.default(0).describe("ONNX Runtime threads per actor; 0 = shared out by the launcher"),
    max_rows: count.default(256).describe("completions in flight per actor"),
    segment_length: count
      .default(8)
      .describe("tokens decoded per run of the graph; rows come and go at these boundaries"),
    lease_seconds: positive.default(60).describe("a task not answered in this time goes to another actor"),
    max_restarts: natural.default(5).describe("restarts of dead actors within ten minutes; one more ends the run"),
  }),
  learner: section({
    backend: z
      .enum(["auto", "tensorflow", "wasm", "cpu"])
      .default("auto")
      .describe("of TensorFlow.js; auto = the fastest that passes its self-test"),
    device: z
      .enum(["auto", "cpu", "cuda"])
      .default("auto")
      .describe("auto = a GPU where TensorFlow can use one; cuda fails at start where it cannot"),
    matmul: z
      .enum(["float32", "bfloat16", "auto"])
      .default("float32")
      .describe("of large matrix products; auto = bfloat16 on a CPU that multiplies it"),
    threads: natural.default(0).describe("TensorFlow threads; 0 = all cores (actors pause while it trains)"),
    max_restarts: natural.default(3).describe("restarts of a dead learner within ten minutes; one more ends the run"),
  }),
  transport: section({
    address: z.string().default("ipc").describe('"ipc", or tcp://127.0.0.1:PORT (weights on PORT + 1)'),
    shared_memory: z
      .boolean()
      .default(true)
      .describe("weights by a file in /dev/shm, where there is one; chunks over the socket otherwise"),
  }),
  selftest: section({
    max_logprob_gap: positive
      .nullable()
      .default(1e-4)
      .describe("nats; actor against learner at start-up, the largest of all tokens; null = no limit"),
    mean_logprob_gap: optional.describe("nats; the mean over the tokens; null = no limit"),
    p99_logprob_gap: optional.describe("nats; the 99th percentile of the tokens; null = no limit"),
  }),
});

/** A resolved run configuration. */
export type RunConfig = z.infer<typeof runConfigSchema>;
