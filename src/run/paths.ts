/** Where everything of a run lies in its directory: the only place that spells these names. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** The resolved configuration; its presence means "this directory holds a run". */
export const configFile = (runDir: string): string => join(runDir, "config.json");
/** Who is running it now; left behind only by a launcher that was killed. */
export const ownerFile = (runDir: string): string => join(runDir, "launcher.json");
/** One line per iteration. */
export const metricsFile = (runDir: string): string => join(runDir, "metrics.jsonl");
/** One line per iteration: the sha256 of the weights that it made. */
export const weightsFile = (runDir: string): string => join(runDir, "weights.jsonl");
/** One line per evaluation between the first and the last. */
export const validationFile = (runDir: string): string => join(runDir, "validation.jsonl");
/** One line per process that died or hung. */
export const incidentsFile = (runDir: string): string => join(runDir, "incidents.jsonl");
export const summaryFile = (runDir: string): string => join(runDir, "summary.json");
/** The journal, one file per batch. */
export const trajectoriesFolder = (runDir: string): string => join(runDir, "trajectories");
export const logsFolder = (runDir: string): string => join(runDir, "logs");
export const logFile = (runDir: string, role: string): string => join(logsFolder(runDir), `${role}.log`);

export const CHECKPOINTS = "checkpoints";
export const checkpointsFolder = (runDir: string): string => join(runDir, CHECKPOINTS);
/** `checkpoints/step-000120` for iteration 120. */
export const checkpointFolder = (runDir: string, step: number): string =>
  join(checkpointsFolder(runDir), `step-${String(step).padStart(6, "0")}`);

/** The numbers in the names of a folder's entries, ascending; names of another form have none. */
export function numbersOf(folder: string, form: RegExp): number[] {
  const names = existsSync(folder) ? readdirSync(folder) : [];
  return names
    .flatMap((name) => form.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
}
