/** What an evaluation was asked, as metrics.json says it, and how two of them differ. */
import { createHash } from "node:crypto";
import { z } from "zod";

/** Version of the form of metrics.json and predictions.jsonl. */
export const EVAL_VERSION = 1;

export const settingsSchema = z.object({
  version: z.literal(EVAL_VERSION),
  model: z.string(),
  data: z.string(),
  /** Number of questions. */
  n: z.int().positive(),
  /** Name of the prompt, as in names.ts. */
  prompt: z.string(),
  /** Hash of questions and right answers, in order. */
  questions_sha256: z.string(),
  /** Hash of the prompt's texts, not of token ids: models with different tokenizers compare. */
  prompt_sha256: z.string(),
  temperature: z.number(),
  max_new_tokens: z.int(),
  /** Sampled completions of each question. */
  samples: z.int().positive(),
  /** Seed of the sampling noise. */
  seed: z.int(),
  /** Seed of the training run that made the model; null for a model of no run. */
  train_seed: z.int().nullable(),
  weights_sha256: z.string(),
  /** Where the engines computed; before there was a choice, neither was written. */
  device: z.enum(["cpu", "cuda"]).default("cpu"),
  /** Number type of linear layers, keys and values. */
  dtype: z.enum(["float32", "float16"]).default("float32"),
});

export type EvalSettings = z.infer<typeof settingsSchema>;

/** How a setting is called in messages. */
const names = {
  version: "the version of the form",
  weights_sha256: "the model's weights (--model)",
  n: "the number of questions",
  questions_sha256: "the questions",
  prompt: "the prompt's name (--prompt)",
  prompt_sha256: "the prompts' texts (--prompt, --system, --prompt-suffix or --fewshot)",
  temperature: "--temperature",
  max_new_tokens: "--max-new-tokens",
  samples: "--samples",
  seed: "--seed",
  modes: "--modes",
  device: "--device",
  dtype: "--dtype",
} as const;

type Named = keyof typeof names;
type Value = string | number | undefined;

export const comparable = Object.keys(names) as Named[];

/** Names the settings in which two evaluations differ, with both values. */
export function differencesOf(
  a: Partial<Record<Named, Value>>,
  b: Partial<Record<Named, Value>>,
  keys: readonly Named[],
  between: string,
): string[] {
  return keys
    .filter((key) => a[key] !== b[key])
    .map((key) => `${names[key]} (${brief(a[key])}${between}${brief(b[key])})`);
}

function brief(value: Value): string {
  return String(value ?? "nothing").replace(/^([0-9a-f]{12})[0-9a-f]{52}$/, "$1");
}

export function sha256OfList(list: readonly unknown[]): string {
  return createHash("sha256").update(JSON.stringify(list)).digest("hex");
}
