/** Checks each layer against the schema, then the merged whole for rules that join several keys. */
import { z } from "zod";
import { UserError } from "../errors.js";
import { parseAddress } from "../protocol/address.js";
import { expectedAt, nearestKey, nearestOf } from "./keys.js";
import { runConfigSchema, type RunConfig } from "./schema.js";

/** Keys that only GRPO reads. */
const GRPO_KEYS = new Set(
  "loss_type epsilon epsilon_high delta beta use_bias_correction_kl scale_rewards num_iterations steps_per_generation importance_sampling_level".split(
    " ",
  ),
);
/** Keys that only PPO reads. */
const PPO_KEYS = new Set(
  "gamma lam cliprange cliprange_value vf_coef kl_coef kl_estimator kl_target kl_horizon num_ppo_epochs num_mini_batches whiten_rewards missing_eos_penalty bootstrap_truncated value_model value_learning_rate critic_warmup_steps".split(
    " ",
  ),
);

/** Other systems' sampling knobs: any would make the sampled distribution unlike the trained. */
const SAMPLING_KEYS = new Set(["top_p", "top_k", "min_p", "repetition_penalty"]);

/** The least limit on the largest gap, in nats, that a dtype can pass, and what to set instead. */
const GAPS: Record<RunConfig["actors"]["dtype"], { readonly least: number; readonly limits: string }> = {
  float32: { least: 0, limits: "a larger one" },
  float16: {
    least: 1e-3,
    limits: "selftest.max_logprob_gap=null, selftest.mean_logprob_gap=0.02 and selftest.p99_logprob_gap=0.1",
  },
  int8: { least: 0.1, limits: "selftest.max_logprob_gap=null and selftest.mean_logprob_gap=0.1" },
};

/**
 * Checks one layer (a file, or one flag) by itself, so that a message can name its origin.
 * @param flags command-line flags to suggest as well, without dashes
 * @throws UserError with one line per fault: key, expected, found
 */
export function checkLayer(layer: unknown, where: string, flags: readonly string[] = []): void {
  const parsed = runConfigSchema.safeParse(layer);
  if (parsed.success) return;
  throw new UserError(parsed.error.issues.flatMap((issue) => explain(issue, layer, where, flags)).join("\n"));
}

function explain(issue: z.core.$ZodIssue, layer: unknown, where: string, flags: readonly string[]): string[] {
  if (issue.code === "unrecognized_keys") {
    const inList = issue.path.some((step) => typeof step === "number");
    return issue.keys.map((name) => {
      if (SAMPLING_KEYS.has(name))
        return `${where}: ${name} is not a training option. Training samples with \`temperature\` alone, so that the sampled distribution is the trained one; remove ${name}.`;
      const key = dotted([...issue.path, name]);
      return inList
        ? `${where}: unknown key "${key}"; expected ${expectedAt(issue.path)}.`
        : `${where}: unknown key "${key}"; the nearest valid one is "${nearestKey(key, flags)}".`;
    });
  }
  const found = valueAt(layer, issue.path);
  return [`${where}: ${dotted(issue.path) || "the file"} must be ${expectedAt(issue.path)}, found ${show(found)}.`];
}

/** The faults of a file of another kind, a line each; `keys` are all that it may have. */
export function faultsOf({ issues }: z.ZodError, value: unknown, where: string, keys: readonly string[]): string {
  const faults = issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys")
      return issue.keys
        .map((name) => dotted([...issue.path, name]))
        .map((key) => `${where}: unknown key "${key}"; the nearest valid one is "${nearestOf(key, keys)}".`);
    const reason = issue.code === "invalid_key" ? issue.issues[0]!.message : issue.message;
    const expected = reason.replace(/^Invalid (input|option): /, "").replace(/, received .*$/, "");
    return [`${where}: ${dotted(issue.path) || "the file"}: ${expected}, found ${show(valueAt(value, issue.path))}.`];
  });
  return faults.join("\n");
}

const dotted = (path: readonly PropertyKey[]): string => path.map(String).join(".");

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce(
    (at: unknown, step) =>
      at === null || typeof at !== "object" ? undefined : (at as Record<PropertyKey, unknown>)[step],
    value,
  );
}

function show(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/**
 * Checks rules across keys; returns notes on settings that are allowed and probably not meant.
 * @throws UserError naming the keys, their values and a cure
 */
export function crossCheck(config: RunConfig): string[] {
  const { algo, num_generations: groupSize, generation_batch_size: batchSize } = config;
  const notes: string[] = [];

  if (algo === "grpo" && groupSize < 2)
    throw new UserError(
      `num_generations is ${groupSize}, but GRPO compares completions of one prompt: expected at least 2.`,
    );
  if (batchSize % groupSize !== 0) {
    const below = Math.floor(batchSize / groupSize) * groupSize;
    const nearest = below > 0 ? `${below} or ${below + groupSize}` : `${groupSize}`;
    throw new UserError(
      `generation_batch_size (${batchSize}) must be a multiple of num_generations (${groupSize}); try ${nearest}.`,
    );
  }

  const groups = batchSize / groupSize;
  const [partsKey, parts] =
    algo === "grpo"
      ? ["steps_per_generation", config.steps_per_generation]
      : ["num_mini_batches", config.num_mini_batches];
  if (groups % parts !== 0)
    throw new UserError(
      `${partsKey} (${parts}) must divide the ${groups} groups of a batch (generation_batch_size ${batchSize} / num_generations ${groupSize}): groups are never split.`,
    );

  if (config.filter_groups && groupSize < 2)
    throw new UserError(
      `filter_groups needs num_generations >= 2, found ${groupSize}: a group of one always has equal rewards. Set filter_groups: false.`,
    );
  if (config.kl_target !== null && config.kl_coef === 0)
    throw new UserError(
      "kl_target is set, but kl_coef is 0, which adaptive KL can only multiply. Give kl_coef a starting value, such as 0.05.",
    );
  if (config.reward.overlong_buffer >= config.max_completion_length)
    throw new UserError(
      `reward.overlong_buffer (${config.reward.overlong_buffer}) must be smaller than max_completion_length (${config.max_completion_length}): it is the last part of it.`,
    );
  if (config.actors.max_rows < groupSize)
    throw new UserError(
      `actors.max_rows (${config.actors.max_rows}) must be at least num_generations (${groupSize}): a group is sampled together.`,
    );
  const { backend, device } = config.learner;
  if (device === "cuda" && (backend === "wasm" || backend === "cpu"))
    throw new UserError(
      `learner.device is cuda, but learner.backend=${backend} computes on the CPU only. Set learner.backend: tensorflow.`,
    );
  parseAddress(config.transport.address);
  checkSelftest(config);

  const passes = algo === "grpo" ? config.num_iterations : config.num_ppo_epochs;
  const optimizerSteps = config.max_steps * passes * parts;
  if (config.warmup_steps >= optimizerSteps)
    notes.push(
      `warmup_steps (${config.warmup_steps}) is not below the ${optimizerSteps} optimizer steps of this run: learning_rate is never reached.`,
    );
  if (algo === "ppo" && config.critic_warmup_steps >= config.max_steps)
    notes.push(
      `critic_warmup_steps (${config.critic_warmup_steps}) is not below max_steps (${config.max_steps}): the policy is never trained.`,
    );
  if (config.data.train !== "starter" && config.data.train === config.data.validation)
    notes.push("data.train and data.validation are the same file: accuracy will be measured on problems trained on.");
  return notes;
}

/** Whether an algorithm reads a key. */
export function readsKey(algo: RunConfig["algo"], key: string): boolean {
  return !(algo === "grpo" ? PPO_KEYS : GRPO_KEYS).has(key);
}

/** A note when a flag sets a key that the algorithm does not read; files may serve both. */
export function unusedKeyNote(key: string, algo: RunConfig["algo"]): string | undefined {
  return !readsKey(algo, key) ? `--${key} has no effect: ${algo.toUpperCase()} does not read it.` : undefined;
}

/** Some gate must hold, and one that the dtype can pass: float16 is off by about 1e-2 nats. */
function checkSelftest({ actors, selftest }: RunConfig): void {
  const { max_logprob_gap: max, mean_logprob_gap: mean, p99_logprob_gap: p99 } = selftest;
  if (max === null && mean === null && p99 === null)
    throw new UserError(
      "selftest: max_logprob_gap, mean_logprob_gap and p99_logprob_gap are all null, so that actor and learner would never be compared. Give one of them a limit.",
    );
  if (actors.dtype === "int8" && actors.device === "cuda")
    throw new UserError(
      "actors.dtype=int8: expected actors.device=cpu, where it is faster, found cuda. Take float16 there.",
    );
  const { least, limits } = GAPS[actors.dtype];
  if (max !== null && max < least)
    throw new UserError(
      `actors.dtype is ${actors.dtype}, whose log-probabilities differ from the learner's by more than selftest.max_logprob_gap (${max}). Set ${limits}, or actors.dtype=float32.`,
    );
}
