/**
 * What a run has measured, read back from its directory; the run may be writing meanwhile.
 * Knows the files' form; computes nothing.
 */
import { existsSync } from "node:fs";
import { z } from "zod";
import type { RunConfig } from "../config/schema.js";
import { readJson, readJsonLines } from "../files.js";
import { readRunConfig } from "./config.js";
import { configFile, metricsFile, summaryFile, validationFile } from "./layout.js";

const accuracy = z.object({ accuracy: z.number(), ci95: z.tuple([z.number(), z.number()]), n: z.int() });
const validation = z.object({ sampled: accuracy.exactOptional(), greedy: accuracy.exactOptional() });
const validationLine = validation.extend({ iteration: z.int() });
// NaN is written as null: such values are left out.
const metricsLine = z
  .record(z.string(), z.number().nullable())
  .transform((line) => Object.fromEntries(Object.entries(line).filter((entry) => entry[1] !== null)));
const summarySchema = z.object({
  algo: z.enum(["grpo", "ppo"]),
  validation: z.object({ before: validation.exactOptional(), after: validation.exactOptional() }),
  iterations: z.int(),
  wall_seconds: z.number(),
  train_seconds: z.number(),
  backend: z.string(),
  commit: z.string().nullable(),
  checkpoint: z.string().nullable(),
  stopped: z.boolean(),
});

export interface RunFiles {
  readonly config: RunConfig;
  readonly metrics: readonly Readonly<Record<string, number>>[];
  /** Held-out accuracy by iteration, before (0) and after included. */
  readonly validation: readonly z.infer<typeof validationLine>[];
  /** Null while it runs, or when it was killed. */
  readonly summary: z.infer<typeof summarySchema> | null;
}

export const isRunDir = (runDir: string): boolean => existsSync(configFile(runDir));

/** @throws UserError when a file is damaged or of another form */
export function readRunFiles(runDir: string): RunFiles {
  const summary = existsSync(summaryFile(runDir)) ? readSummary(runDir) : null;
  const { before, after } = summary?.validation ?? {};
  return {
    config: readRunConfig(configFile(runDir)),
    metrics: readMetrics(runDir),
    validation: [
      ...(before === undefined ? [] : [{ iteration: 0, ...before }]),
      ...readValidation(runDir),
      ...(after === undefined ? [] : [{ iteration: summary!.iterations, ...after }]),
    ],
    summary,
  };
}

/** @throws UserError when the run has none that can be read */
export const readSummary = (runDir: string) => readJson(summaryFile(runDir), summarySchema);

/** The iterations' metrics; none before the first. */
export const readMetrics = (runDir: string): Record<string, number>[] =>
  readJsonLines(metricsFile(runDir), metricsLine) as Record<string, number>[];

/** The evaluations between the first and the last. */
export const readValidation = (runDir: string) => readJsonLines(validationFile(runDir), validationLine);
