/** What went wrong in a run and was dealt with: processes that died or hung, tasks set aside. */
import { appendFileSync } from "node:fs";
import { z } from "zod";
import { readJsonLines } from "../files.js";
import { incidentsFile } from "./paths.js";

const incident = z.object({
  /** ISO 8601. */
  time: z.string(),
  /** "learner", "actor-0", … */
  process: z.string(),
  message: z.string(),
});
export type Incident = z.infer<typeof incident>;

/** Appends an incident; a disk that takes none is no further incident. */
export function recordIncident(runDir: string, process: string, message: string): void {
  try {
    const line: Incident = { time: new Date().toISOString(), process, message };
    appendFileSync(incidentsFile(runDir), `${JSON.stringify(line)}\n`);
  } catch {
    // the terminal says it all the same
  }
}

/** @throws UserError when the file is damaged */
export const readIncidents = (runDir: string): Incident[] => readJsonLines(incidentsFile(runDir), incident);
