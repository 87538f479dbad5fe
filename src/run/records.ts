/** What a run writes about itself (metrics, evaluations, summary), read while it may be writing. */
import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { z } from "zod";
import { fsyncPath, jsonOf, readJson, readJsonLines, writeJson, writeWhole } from "../files.js";
import type { PolicyVersion } from "../model/identity.js";
import {
  type Metrics,
  type RunSummary,
  type Validation,
  summarySchema,
  validationSchema,
} from "../protocol/progress.js";
import { readRunConfig } from "./run-config.js";
import { configFile, metricsFile, summaryFile, validationFile, weightsFile } from "./paths.js";

const validationLine = validationSchema.extend({ iteration: z.int() });
// NaN is written as null: such values are left out.
const metricsLine = z
  .record(z.string(), z.number().nullable())
  .transform((line) => Object.fromEntries(Object.entries(line).flatMap(([k, v]) => (v === null ? [] : [[k, v]]))));
const weightsLine = z.object({ iteration: z.int(), sha256: z.string() });

export type RunFiles = ReturnType<typeof readRunFiles>;

export const isRunDir = (runDir: string): boolean => existsSync(configFile(runDir));

/** @throws UserError when a file is damaged or of another form */
export function readRunFiles(runDir: string) {
  const file = summaryFile(runDir);
  const summary = existsSync(file) ? readJson(file, summarySchema) : null;
  const { before, after } = summary?.validation ?? {};
  return {
    config: readRunConfig(configFile(runDir)),
    metrics: readJsonLines(metricsFile(runDir), metricsLine),
    /** Held-out accuracy by iteration, before (0) and after included. */
    validation: [
      ...(before === undefined ? [] : [{ iteration: 0, ...before }]),
      ...readJsonLines(validationFile(runDir), validationLine),
      ...(after === undefined ? [] : [{ iteration: summary!.iterations, ...after }]),
    ],
    /** Null while it runs, or when it was killed. */
    summary,
  };
}

/** @throws UserError when the run has none that can be read */
export const readSummary = (runDir: string) => readJson(summaryFile(runDir), summarySchema);

export const appendMetrics = (runDir: string, line: Metrics): void => appendLine(metricsFile(runDir), line);

export const appendWeights = (runDir: string, version: PolicyVersion): void => appendLine(weightsFile(runDir), version);

/** The hash of the weights that an iteration made; undefined in runs of earlier releases. */
export const weightsAfter = (runDir: string, iteration: number): string | undefined =>
  readJsonLines(weightsFile(runDir), weightsLine).find((line) => line.iteration === iteration)?.sha256;

export const appendValidation = (runDir: string, iteration: number, validation: Validation): void =>
  appendLine(validationFile(runDir), { iteration, ...validation });

export const writeSummary = (runDir: string, summary: RunSummary): void => writeJson(summaryFile(runDir), summary);

/** Puts the lines written so far on the disk. */
export function flushRecords(runDir: string): void {
  for (const file of [metricsFile(runDir), validationFile(runDir), weightsFile(runDir)])
    if (existsSync(file)) fsyncPath(file);
}

/** Drops the lines of iterations that a resumed run will do again. */
export function dropLinesAfter(runDir: string, iteration: number): void {
  for (const file of [metricsFile(runDir), weightsFile(runDir), validationFile(runDir)]) {
    if (!existsSync(file)) continue;
    const lines = readFileSync(file, "utf8").split("\n");
    // the last line of a killed process may be torn
    const kept = lines.filter((line) => ((jsonOf(line) as Metrics | undefined)?.iteration ?? Infinity) <= iteration);
    writeWhole(file, kept.map((line) => `${line}\n`).join(""));
  }
}

function appendLine(file: string, line: object): void {
  appendFileSync(file, `${JSON.stringify(line)}\n`);
}

/** Commit of the program; null outside a git checkout. */
export function currentCommit(): string | null {
  try {
    const cwd = new URL(".", import.meta.url);
    const stdio = ["ignore", "pipe", "ignore"] as const;
    return execFileSync("git", ["rev-parse", "HEAD"], { cwd, encoding: "utf8", stdio: [...stdio] }).trim();
  } catch {
    return null;
  }
}
