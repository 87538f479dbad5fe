/**
 * Learning rate schedules, as factors of the configured rate. Formulas: transformers
 * `optimization.py` (`get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup`,
 * `get_constant_schedule_with_warmup`). Knows step counts only; the optimizer owns the rate.
 */
import { stepsPerIteration } from "../../config/derived.js";
import type { RunConfig } from "../../config/schema.js";

/**
 * Factor of `learning_rate` for one optimizer step, in [0, 1].
 *
 * Warm-up rises linearly from 0 (so the very first step of a warm-up changes nothing, as in
 * transformers); after it `linear` falls to 0 at `totalSteps`, `cosine` falls along half a cosine,
 * `constant` stays at 1. Steps past the end get the end's factor.
 *
 * @param step optimizer steps taken before this one, from 0
 * @param warmupSteps optimizer steps of warm-up, ≥ 0
 * @param totalSteps optimizer steps of the whole run
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

/**
 * Learning rate of an optimizer step.
 * @param iteration training iterations completed before this one
 * @param step steps of this iteration taken before this one
 */
export function learningRateAt(run: RunConfig, iteration: number, step: number): number {
  const perIteration = stepsPerIteration(run);
  const taken = iteration * perIteration + step;
  const { lr_scheduler_type: type, warmup_steps: warmup, max_steps: maxSteps, learning_rate: rate } = run;
  return rate * learningRateFactor(type, taken, warmup, maxSteps * perIteration);
}
