/** One training iteration of GRPO or PPO, and what lasts from one iteration to the next. */
import { PolicyOptimizer } from "../policy/step.js";
import type { Training } from "../policy/forward.js";
import type { TrainingBatch } from "../rollouts/rollout-source.js";
import { trainGrpo } from "./grpo.js";
import { rewardMetrics } from "./metrics.js";
import { trainPpo } from "./ppo.js";
import { rolloutBatch, type AlgorithmResult, type RolloutBatch } from "./rollout-batch.js";

export interface UpdateResult {
  readonly metrics: Record<string, number>;
  /** By task id, one [T] array per completion. */
  readonly advantages: ReadonlyMap<string, readonly Float32Array[]>;
}

export class Updater {
  readonly policy: PolicyOptimizer;
  /** Coefficient of PPO's KL penalty; it moves under adaptive control. */
  klCoef: number;

  constructor(training: Training) {
    this.policy = new PolicyOptimizer(training);
    this.klCoef = training.run.kl_coef;
  }

  /** @throws UserError after five updates in a row that were not finite */
  async update(trainingBatch: TrainingBatch, iteration: number): Promise<UpdateResult> {
    const batch = rolloutBatch(this.policy.training.run, trainingBatch);
    const result = await this.#train(batch, iteration);
    return {
      metrics: {
        ...rewardMetrics(batch),
        ...result.metrics,
        skipped_updates: this.policy.skippedUpdates,
        optimizer_steps: this.policy.optimizer.step,
      },
      advantages: new Map(
        trainingBatch.tasks.map(({ taskId }, g) => [taskId, batch.membersOf[g]!.map((c) => result.advantages[c]!)]),
      ),
    };
  }

  async #train(batch: RolloutBatch, iteration: number): Promise<AlgorithmResult> {
    if (this.policy.training.run.algo === "grpo") return trainGrpo(this.policy, batch, iteration);
    const { klCoef, ...result } = await trainPpo(this.policy, batch, iteration, this.klCoef);
    this.klCoef = klCoef;
    return result;
  }
}
