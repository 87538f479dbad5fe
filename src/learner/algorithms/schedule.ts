/** Learning rate schedules of transformers' `optimization.py` (`get_*_schedule_with_warmup`). */
import { stepsPerIteration } from "../../config/derived.js";
import type { RunConfig } from "../../config/schema.js";

/**
 * Factor of `learning_rate` after `step` optimizer steps, in [0, 1]. Warm-up rises linearly from 0;
 * `linear` then falls to 0 at `totalSteps`, `cosine` along half a cosine, `constant` stays at 1.
 */
export function learningRateFactor(
  type: RunConfig["lr_scheduler_type"],
  step: number,
  warmupSteps: number,
  totalSteps: number,
): number {
  if (step < warmupSteps) return step / warmupSteps;
  if (type === "constant") return 1;
  const decaySteps = Math.max(1, totalSteps - warmupSteps);
  if (type === "linear") return Math.max(0, (totalSteps - step) / decaySteps);
  return 0.5 * (1 + Math.cos(Math.PI * Math.min(1, (step - warmupSteps) / decaySteps)));
}

/** @param step steps of this iteration (after `iteration` whole ones) taken before this one */
export function learningRateAt(run: RunConfig, iteration: number, step: number): number {
  const perIteration = stepsPerIteration(run);
  const taken = iteration * perIteration + step;
  const { lr_scheduler_type: type, warmup_steps: warmup, max_steps: maxSteps, learning_rate: rate } = run;
  return rate * learningRateFactor(type, taken, warmup, maxSteps * perIteration);
}
