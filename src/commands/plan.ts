/**
 * `plan`: prints what a run would take in memory, without allocating anything, and refuses what
 * does not fit.
 */
import type { RunConfig } from "../config/schema.js";
import { loadConfig } from "../config/load.js";
import { UserError } from "../errors.js";
import { checkMemory } from "../launcher/plan/check-memory.js";
import { describePlan } from "../launcher/plan/memory-report.js";

export interface PlanOptions {
  readonly algo?: RunConfig["algo"];
  readonly config?: readonly string[];
  /** Bytes of each GPU. */
  readonly gpuMemory?: number;
  readonly serial?: true;
  readonly json?: true;
}

/** @throws UserError when the plan does not fit, with what to change */
export function runPlan(options: PlanOptions, overrides: readonly string[], flags: readonly string[]): void {
  const { config, notes } = loadConfig({ algo: options.algo, files: options.config ?? [], overrides, flags });
  for (const note of notes) process.stderr.write(`${note}\n`);
  const { plan, refused } = checkMemory(config, options.serial === true, options.gpuMemory);
  process.stdout.write(
    options.json === true
      ? `${JSON.stringify({ ...plan, fits: refused === null }, null, 2)}\n`
      : `${describePlan(plan)}\n`,
  );
  if (refused !== null) throw new UserError(refused);
}
