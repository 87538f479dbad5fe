/** PPO, one iteration: Schulman et al., arXiv:1707.06347, algorithm 1, with GAE. */
import type { Scalar } from "@tensorflow/tfjs";
import { stepsPerIteration } from "../../config/derived.js";
import { mulberry32, shuffled } from "../../math/random.js";
import { evaluateAll, logprobsOf, type Evaluated, type Training } from "../policy/forward.js";
import type { Loss } from "../policy/loss.js";
import { concat, type LossInput, type PolicyOptimizer, type StepResult } from "../policy/step.js";
import { explainedVariance, nextKlCoef, ppoAdvantages } from "./advantages.js";
import { ppoPolicyLoss, valueLoss, type Denominators } from "./losses.js";
import { overSteps, tokenMetrics } from "./metrics.js";
import { cut, type AlgorithmResult, type RolloutBatch } from "./rollout-batch.js";
import { learningRateAt } from "./schedule.js";

/** What the losses read, [T] for each completion. */
type Targets = Awaited<ReturnType<typeof advantagesOf>>["targets"];

/** Trains after `iteration` completed ones; returns the next iteration's KL coefficient. */
export async function trainPpo(
  policy: PolicyOptimizer,
  batch: RolloutBatch,
  iteration: number,
  klCoef: number,
): Promise<AlgorithmResult & { klCoef: number }> {
  const { training } = policy;
  const { run } = training;
  const { sequences, completions, membersOf } = batch;
  // With one step, its own forward is π_old.
  const isOldRead = run.old_logprobs === "recompute" && stepsPerIteration(run) > 1;
  const before = await evaluateAll(training, sequences, isOldRead || run.kl_coef !== 0);
  const { ppo, targets } = await advantagesOf(training, batch, before, klCoef);
  const { mask, advantages } = targets;

  const results: StepResult[] = [];
  let learningRate = 0;
  const random = mulberry32(run.seed * 1_000_003 + iteration);
  for (let epoch = 0; epoch < run.num_ppo_epochs; epoch++) {
    for (const part of cut(shuffled(sequences.length, random), run.num_mini_batches)) {
      const members = part.flatMap((g) => membersOf[g]!);
      const tokens = members.reduce((sum, c) => sum + sumOf(mask[c]!), 0);
      const denominators = { rows: part.length * run.num_generations, tokens, generationTokens: tokens };
      learningRate = learningRateAt(run, iteration, results.length);
      const result = await policy.step(sequences, part, learningRate, (input) =>
        iteration < run.critic_warmup_steps
          ? warmupLoss(training, input, targets, denominators)
          : ppoLoss(training, input, targets, denominators),
      );
      results.push(result);
    }
  }
  const { sums, means } = overSteps(results);
  const control = { target: run.kl_target ?? 0, horizon: run.kl_horizon };
  const nextCoef = run.kl_target === null ? klCoef : nextKlCoef(klCoef, ppo.meanKl, completions.length, control);
  return {
    klCoef: nextCoef,
    advantages,
    metrics: {
      ...tokenMetrics(sums),
      ...means,
      learning_rate: learningRate,
      "value/loss": (sums.value_loss_sum ?? 0) / results.length,
      "value/clip_ratio": (sums.value_clip_sum ?? 0) / Math.max(1, sums.tokens_sum ?? 0),
      "value/explained_variance": explainedVariance(concat(before.values), ppo.returns, ppo.mask) ?? 0,
      ...(run.kl_coef === 0 ? {} : { kl: ppo.meanKl, kl_coef: nextCoef }),
      frac_groups_forwarded: 1,
    },
  };
}

async function advantagesOf(
  training: Training,
  { sequences, completions }: RolloutBatch,
  before: Evaluated,
  klCoef: number,
) {
  const { run, model } = training;
  const reference = run.kl_coef === 0 ? null : await logprobsOf(training, model.reference(), sequences);
  const lengths = completions.map(({ completion }) => completion.ids.length);
  const ppo = ppoAdvantages(
    {
      rowOf: Int32Array.from(lengths.flatMap((length, c) => Array.from({ length }, () => c))),
      logprobs: before.logprobs === null ? null : concat(before.logprobs),
      refLogprobs: reference === null ? null : concat(reference),
      values: concat(before.values),
      scores: completions.map(({ reward }) => reward),
      truncated: completions.map(({ truncated }) => truncated),
      bootstrapValues: run.bootstrap_truncated ? before.lastValues : null,
    },
    { ...run, kl_coef: klCoef },
  );
  const split = (values: Float32Array): Float32Array[] => {
    let at = 0;
    return lengths.map((length) => values.subarray(at, (at += length)));
  };
  const isBehaviourOld = run.old_logprobs === "behaviour";
  const behaviour = completions.map(({ completion }) => completion.behaviourLogprobs);
  const targets = {
    advantages: split(ppo.advantages),
    returns: split(ppo.returns),
    mask: split(ppo.mask),
    oldValues: before.values,
    /** Null where the forward of the only step is π_old. */
    oldLogprobs: isBehaviourOld ? behaviour : stepsPerIteration(run) === 1 ? null : before.logprobs,
    /** Null where π_old is the actor. */
    behaviourLogprobs: isBehaviourOld ? null : behaviour,
  };
  return { ppo, targets };
}

function ppoLoss(training: Training, input: LossInput, targets: Targets, denominators: Denominators): Loss {
  const { tf, run } = training;
  const { packed, gather } = input;
  const tokens = {
    ...input.policy(),
    rowOf: packed.rowOf,
    numRows: packed.numRows,
    oldLogprobs: targets.oldLogprobs === null ? null : gather(targets.oldLogprobs),
    behaviourLogprobs: targets.behaviourLogprobs === null ? null : gather(targets.behaviourLogprobs),
    refLogprobs: null,
    advantages: gather(targets.advantages),
    mask: gather(targets.mask),
  };
  const value = weightedValueLoss(training, input, targets, denominators);
  const policy = ppoPolicyLoss(tf, tokens, run, denominators);
  return { loss: tf.add(policy.loss, value.loss) as Scalar, metrics: { ...policy.metrics, ...value.metrics } };
}

/** The value loss alone, while the critic warms up and the policy waits. */
function warmupLoss(training: Training, input: LossInput, targets: Targets, denominators: Denominators): Loss {
  const { loss, metrics } = weightedValueLoss(training, input, targets, denominators);
  return { loss, metrics: { ...metrics, tokens_sum: training.tf.scalar(sumOf(input.gather(targets.mask))) } };
}

function weightedValueLoss(
  { tf, run }: Training,
  { gather, values }: LossInput,
  { oldValues, returns, mask }: Targets,
  denominators: Denominators,
): Loss {
  const tokens = { values: values(), oldValues: gather(oldValues), returns: gather(returns), mask: gather(mask) };
  const { loss, metrics } = valueLoss(tf, tokens, run, denominators);
  return { loss: tf.mul(loss, run.vf_coef) as Scalar, metrics: { ...metrics, value_loss_sum: loss } };
}

const sumOf = (values: Float32Array): number => values.reduce((a, b) => a + b, 0);
