/** What follows from a run's configuration and is needed in several rooms. */
import type { RunConfig } from "./schema.js";

/** Returns the optimizer steps of one iteration. */
export function stepsPerIteration(run: RunConfig): number {
  return run.algo === "grpo"
    ? run.num_iterations * run.steps_per_generation
    : run.num_ppo_epochs * run.num_mini_batches;
}

/** True when a term of the objective looks at a frozen copy of the first policy. */
export function needsReference(run: RunConfig): boolean {
  return run.algo === "grpo" ? run.beta > 0 : run.kl_coef > 0;
}
