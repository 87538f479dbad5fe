/**
 * The files of a run directory, read back: configuration, metrics, evaluations during training,
 * summary. A run may be writing them meanwhile. Knows their form; computes nothing.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError, messageOf } from "../errors.js";

const accuracy = z.object({ accuracy: z.number(), ci95: z.tuple([z.number(), z.number()]), n: z.int() });
const validation = z.object({ sampled: accuracy.optional(), greedy: accuracy.optional() });
const validationLine = validation.extend({ iteration: z.int() });
const metricsLine = z.record(z.string(), z.number());
const summarySchema = z.object({
  validation: z.object({ before: validation.optional(), after: validation.optional() }),
  iterations: z.int(),
  wall_seconds: z.number(),
  train_seconds: z.number(),
  backend: z.string(),
  commit: z.string().nullable(),
  stopped: z.boolean(),
});
/** config.json of a run, as far as a report names its keys; all keys are kept. */
const configSchema = z.looseObject({
  algo: z.string(),
  seed: z.int(),
  max_steps: z.int(),
  generation_batch_size: z.int(),
  model: z.looseObject({ path: z.string() }),
  max_staleness: z.int(),
  actors: z.looseObject({ num: z.int() }),
  selftest: z.looseObject({ max_logprob_gap: z.number().nullable() }),
  data: z.looseObject({ train: z.string(), validation: z.string() }),
});

export interface RunFiles {
  readonly config: z.infer<typeof configSchema>;
  readonly metrics: readonly Readonly<Record<string, number>>[];
  /** Held-out accuracy by iteration, before (0) and after included. */
  readonly validation: readonly z.infer<typeof validationLine>[];
  /** Null while it runs, or when it was killed. */
  readonly summary: z.infer<typeof summarySchema> | null;
}

export const isRunDir = (dir: string): boolean => existsSync(join(dir, "config.json"));

/** @throws UserError when a file is damaged or of another form */
export function readRunFiles(dir: string): RunFiles {
  const config = readJson(join(dir, "config.json"), configSchema);
  const summaryFile = join(dir, "summary.json");
  const summary = existsSync(summaryFile) ? readJson(summaryFile, summarySchema) : null;
  const { before, after } = summary?.validation ?? {};
  return {
    config,
    metrics: readLines(join(dir, "metrics.jsonl"), metricsLine),
    validation: [
      ...(before === undefined ? [] : [{ iteration: 0, ...before }]),
      ...readLines(join(dir, "validation.jsonl"), validationLine),
      ...(after === undefined ? [] : [{ iteration: summary!.iterations, ...after }]),
    ],
    summary,
  };
}

/** @throws UserError when there is no JSON of this form */
export function readJson<T>(file: string, schema: z.ZodType<T>): T {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UserError(`${file}: expected JSON, found none that can be read (${messageOf(error)}).`);
  }
  return checked(json, schema, file);
}

/**
 * Whole lines of a file that may still be written to; none when it is missing. NaN is written as
 * null: such values are left out.
 */
function readLines<T>(file: string, schema: z.ZodType<T>): T[] {
  if (!existsSync(file)) return [];
  const whole = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return whole.map((line, i) => {
    try {
      const json: unknown = JSON.parse(line, (_key, value: unknown) => (value === null ? undefined : value));
      return checked(json, schema, `${file}:${i + 1}`);
    } catch (error) {
      if (error instanceof UserError) throw error;
      throw new UserError(`${file}:${i + 1}: expected JSON (${messageOf(error)}).`);
    }
  });
}

function checked<T>(json: unknown, schema: z.ZodType<T>, where: string): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new UserError(`${where}: expected another content.\n${z.prettifyError(parsed.error)}`);
}
