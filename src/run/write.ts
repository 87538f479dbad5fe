/** What a run writes about itself while it trains; read.ts reads it back. */
import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { jsonOf, writeJson, writeWhole } from "../files.js";
import type { Metrics, RunSummary, Validation } from "../protocol/progress.js";
import { metricsFile, summaryFile, validationFile } from "./layout.js";

export const appendMetrics = (runDir: string, line: Metrics): void => appendLine(metricsFile(runDir), line);

export const appendValidation = (runDir: string, iteration: number, validation: Validation): void =>
  appendLine(validationFile(runDir), { iteration, ...validation });

export const writeSummary = (runDir: string, summary: RunSummary): void => writeJson(summaryFile(runDir), summary);

/** Drops the lines of iterations that a resumed run will do again. */
export function dropLinesAfter(runDir: string, iteration: number): void {
  for (const file of [metricsFile(runDir), validationFile(runDir)]) {
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
