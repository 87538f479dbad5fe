/** What an evaluation was asked, as metrics.json says it, and how two of them differ. */
import { createHash } from "node:crypto";
import { z } from "zod";

export const EVAL_VERSION = 1;

export const settingsSchema = z.object({
  version: z.literal(EVAL_VERSION),
  model: z.string(),
  data: z.string(),
  n: z.int().positive(),
  prompt: z.string(),
  /** Hash of questions and right answers, in order. */
  questions_sha256: z.string(),
  /** Hash of the prompt's texts, not of token ids: models with different tokenizers compare. */
  prompt_sha256: z.string(),
  temperature: z.number(),
  max_new_tokens: z.int(),
  samples: z.int().positive(),
  seed: z.int(),
  /** Seed of the training run that made the model; null for a model of no run. */
  train_seed: z.int().nullable(),
  weights_sha256: z.string(),
  /** Where the engines computed; before there was a choice, neither was written. */
  device: z.enum(["cpu", "cuda"]).default("cpu"),
  dtype: z.enum(["float32", "float16", "int8"]).default("float32"),
});

export type EvalSettings = z.infer<typeof settingsSchema>;

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

const brief = (value: Value): string => String(value ?? "nothing").replace(/^([0-9a-f]{12})[0-9a-f]{52}$/, "$1");

export const sha256OfList = (list: readonly unknown[]): string =>
  createHash("sha256").update(JSON.stringify(list)).digest("hex");
