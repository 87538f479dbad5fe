/** GRPO, one iteration: DeepSeekMath, arXiv:2402.03300, algorithm 1, lines 7 to 11. */
import { stepsPerIteration } from "../../config/derived.js";
import { logprobsOf, policyLogprobs } from "../policy/forward.js";
import type { PolicyOptimizer, StepResult } from "../policy/step.js";
import { groupAdvantages } from "./advantages.js";
import { grpoLoss, lossMask, perToken, zeroAdvantageIsFree, type Denominators } from "./losses.js";
import { meanOf, overSteps, shareOfTrue, tokenMetrics, unbiasedStd } from "./metrics.js";
import { cut, type AlgorithmResult, type RolloutBatch } from "./rollout-batch.js";
import { learningRateAt } from "./schedule.js";

/** @param iteration training iterations completed before this one */
export async function trainGrpo(
  policy: PolicyOptimizer,
  batch: RolloutBatch,
  iteration: number,
): Promise<AlgorithmResult> {
  const { training } = policy;
  const { tf, run, model } = training;
  const { sequences, completions, membersOf } = batch;
  const groups = sequences.map((_, g) => g);

  const rewards = membersOf.map((members) => members.map((c) => completions[c]!.reward));
  const relative = groupAdvantages(rewards, run.scale_rewards);
  const advantages = relative.advantages.flatMap((group) => [...group]);
  const isNeeded = relative.advantages.map(
    (group) => !zeroAdvantageIsFree(run) || group.some((advantage) => advantage !== 0),
  );
  const needed = groups.filter((g) => isNeeded[g]);

  // A step may be skipped by a forward, never by a denominator: every completion counts.
  const counted = completions.map(({ completion, truncated }) =>
    run.mask_truncated_completions && truncated ? 0 : completion.ids.length,
  );
  const tokensOf = (members: readonly number[]): number => members.reduce((sum, c) => sum + counted[c]!, 0);
  const generationTokens = tokensOf(membersOf.flat()) / run.steps_per_generation;

  const isBehaviourOld = run.old_logprobs === "behaviour";
  const behaviour = completions.map(({ completion }) => completion.behaviourLogprobs);
  const old = isBehaviourOld
    ? behaviour
    : stepsPerIteration(run) === 1
      ? null // the forward of the only step is π_old
      : await policyLogprobs(training, sequences, needed);
  const reference = run.beta === 0 ? null : await logprobsOf(training, model.reference(), sequences, needed);

  const results: StepResult[] = [];
  let learningRate = 0;
  for (let pass = 0; pass < run.num_iterations; pass++) {
    for (const part of cut(groups, run.steps_per_generation)) {
      const members = part.flatMap((g) => membersOf[g]!);
      const denominators: Denominators = { rows: members.length, tokens: tokensOf(members), generationTokens };
      learningRate = learningRateAt(run, iteration, results.length);
      const inPart = part.filter((g) => isNeeded[g]);
      const result = await policy.step(sequences, inPart, learningRate, (input) => {
        const { packed, completions: numbers, gather } = input;
        const { rowOf, numRows } = packed;
        const truncated = numbers.map((c) => completions[c]!.truncated);
        const perRow = numbers.map((c) => advantages[c]!);
        const tokens = {
          ...input.policy(),
          rowOf,
          numRows,
          oldLogprobs: old === null ? null : gather(old),
          behaviourLogprobs: isBehaviourOld ? null : gather(behaviour),
          refLogprobs: reference === null ? null : gather(reference),
          advantages: perToken(perRow, rowOf),
          mask: lossMask(rowOf, truncated, run.mask_truncated_completions),
        };
        return grpoLoss(tf, tokens, run, denominators);
      });
      results.push(result);
    }
  }
  const { sums, means } = overSteps(results);
  return {
    advantages: completions.map(({ completion }, c) => new Float32Array(completion.ids.length).fill(advantages[c]!)),
    metrics: {
      ...tokenMetrics(sums),
      ...means,
      learning_rate: learningRate,
      frac_reward_zero_std: shareOfTrue(relative.zeroStd),
      frac_groups_forwarded: needed.length / groups.length,
      reward_std: meanOf(rewards.map((group) => unbiasedStd(group.filter((reward) => reward !== null)))),
    },
  };
}
