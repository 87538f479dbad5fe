/**
 * One training iteration: a rollout batch becomes optimizer steps. Reads top to bottom like the
 * algorithms.
 *
 *   rewards ─▶ advantages ─▶ [for each pass, each mini-batch] losses over microbatches ─▶ gradient ─▶ AdamW
 *
 * Knows the policy and the losses; knows nothing of sockets, files or schedules of evaluation.
 */
import type { Scalar, Tensor, Tensor1D } from "@tensorflow/tfjs";
import type { RunConfig } from "../../config/schema.js";
import { UserError } from "../../errors.js";
import { mulberry32 } from "../../math/normal.js";
import type { Completion } from "../../protocol/messages.js";
import { totalReward } from "../../tasks/rewards.js";
import { explainedVariance, groupAdvantages, nextKlCoef, ppoAdvantages } from "./advantages.js";
import type { TF } from "../backend/backend.js";
import {
  grpoLoss,
  lossMask,
  mergeMetrics,
  perToken,
  ppoPolicyLoss,
  valueLoss,
  zeroAdvantageIsFree,
  type Denominators,
  type Loss,
} from "./losses.js";
import type { TrainableModel } from "../policy/model.js";
import { AdamW } from "../policy/optimizer.js";
import { microbatches, type SequenceGroup } from "../policy/packing.js";
import {
  completionLogprobs,
  completionValues,
  disposeBatch,
  hiddenStates,
  prepareMicrobatch,
  type Microbatch,
  type NamedWeights,
} from "../policy/policy.js";
import { addGradient } from "../policy/primitives.js";
import type { TrainingBatch } from "../rollouts/rollout-source.js";
import { learningRateFactor } from "./schedule.js";
import { rewardWeights } from "../rollouts/task-source.js";

/** A run with this many non-finite gradients in a row is stopped. */
const MAX_BAD_GRADIENTS = 5;

export interface UpdateResult {
  readonly metrics: Record<string, number>;
  /** By task id, one [T] array per completion. */
  readonly advantages: ReadonlyMap<string, readonly Float32Array[]>;
}

/** Optimizer steps one iteration takes. */
function stepsPerIteration(run: RunConfig): number {
  return run.algo === "grpo"
    ? run.num_iterations * run.steps_per_generation
    : run.num_ppo_epochs * run.num_mini_batches;
}

/**
 * A completion with what the learner adds to it. Rows are counted group by group over the whole
 * batch.
 */
interface Row {
  readonly completion: Completion;
  readonly reward: number | null;
  readonly truncated: boolean;
}

/** The rollout batch as the learner sees it. */
interface Rollouts {
  readonly sequences: readonly SequenceGroup[];
  readonly rows: readonly Row[];
  /** Row numbers of each group. */
  readonly rowsOf: readonly (readonly number[])[];
}

/** Results of a forward pass without gradient, by row. */
interface Evaluated {
  readonly logprobs: Float32Array[];
  readonly values: Float32Array[];
  /** V after the last token (only when asked for). */
  readonly lastValues: Float32Array;
}

export class Updater {
  readonly #tf: TF;
  readonly #run: RunConfig;
  readonly #model: TrainableModel;
  readonly optimizer: AdamW;
  /** PPO's KL coefficient now (moves under adaptive control). */
  klCoef: number;
  /** Updates skipped because a gradient was not finite. */
  skippedUpdates = 0;
  #badInARow = 0;

  constructor(tf: TF, run: RunConfig, model: TrainableModel) {
    this.#tf = tf;
    this.#run = run;
    this.#model = model;
    this.klCoef = run.kl_coef;
    const valueRate =
      run.value_learning_rate === null || run.learning_rate === 0 ? 1 : run.value_learning_rate / run.learning_rate;
    this.optimizer = new AdamW(
      tf,
      model.flat,
      model.layout,
      {
        beta1: run.adam_beta1,
        beta2: run.adam_beta2,
        epsilon: run.adam_epsilon,
        weightDecay: run.weight_decay,
        maxGradNorm: run.max_grad_norm,
      },
      (name) => (name.startsWith("value_") ? valueRate : 1),
      // The critic's warm-up: a shared trunk waits too, as it is the policy.
      run.algo === "ppo" && run.critic_warmup_steps > 0
        ? { isLate: (name) => !name.startsWith("value_"), steps: run.critic_warmup_steps * stepsPerIteration(run) }
        : null,
    );
  }

  /**
   * Trains on one rollout batch.
   * @param iteration training iterations completed before this one
   * @throws UserError after five non-finite gradients in a row
   */
  async update(batch: TrainingBatch, iteration: number): Promise<UpdateResult> {
    const rollouts = this.#rollouts(batch);
    const { perRow, metrics } =
      this.#run.algo === "grpo" ? await this.#grpo(rollouts, iteration) : await this.#ppo(rollouts, iteration);
    const advantages = new Map(
      batch.tasks.map((task, g) => [task.taskId, rollouts.rowsOf[g]!.map((row) => perRow[row]!)]),
    );
    return {
      metrics: {
        ...rewardMetrics(rollouts),
        ...metrics,
        skipped_updates: this.skippedUpdates,
        optimizer_steps: this.optimizer.step,
      },
      advantages,
    };
  }

  #rollouts(batch: TrainingBatch): Rollouts {
    const weights = rewardWeights(this.#run);
    const rows: Row[] = [];
    const rowsOf = batch.groups.map((group) =>
      group.completions.map((completion) => {
        rows.push({
          completion,
          reward: totalReward(completion.rewards, weights),
          truncated: completion.finishReason === "length",
        });
        return rows.length - 1;
      }),
    );
    const sequences = batch.groups.map((group, g) => ({
      promptIds: batch.tasks[g]!.promptIds,
      completions: group.completions.map((completion) => completion.ids),
    }));
    return { sequences, rows, rowsOf };
  }

  // ------------------------------------------------------------------------------------------------------
  // GRPO

  async #grpo(
    rollouts: Rollouts,
    iteration: number,
  ): Promise<{ perRow: Float32Array[]; metrics: Record<string, number> }> {
    const run = this.#run;
    const { rows, rowsOf, sequences } = rollouts;
    const relative = groupAdvantages(
      rowsOf.map((members) => members.map((row) => rows[row]!.reward)),
      run.scale_rewards,
    );
    const advantages = relative.advantages.flatMap((group) => [...group]);
    const skipZero = zeroAdvantageIsFree(run);
    const needsForward = relative.advantages.map((group) => !skipZero || group.some((advantage) => advantage !== 0));
    const counted = rows.map((row) =>
      run.mask_truncated_completions && row.truncated ? 0 : row.completion.ids.length,
    );
    const sum = (indices: readonly number[]): number => indices.reduce((total, row) => total + counted[row]!, 0);
    const all = sequences.map((_, g) => g);
    const forwarded = all.filter((g) => needsForward[g]);
    const generationTokens = sum(rowsOf.flat()) / run.steps_per_generation;

    const steps = stepsPerIteration(run);
    const old =
      run.old_logprobs === "behaviour"
        ? rows.map((row) => row.completion.behaviourLogprobs)
        : steps === 1
          ? null // the forward of the only step is π_old
          : await this.#logprobs(rollouts, forwarded, "policy");
    const reference = run.beta === 0 ? null : await this.#logprobs(rollouts, forwarded, "reference");

    let metrics: Record<string, number> = {};
    let loss = 0;
    let gradNorm = 0;
    let step = 0;
    let learningRate = 0;
    for (let pass = 0; pass < run.num_iterations; pass++) {
      for (const part of cut(all, run.steps_per_generation)) {
        const partRows = part.flatMap((g) => rowsOf[g]!);
        const denominators: Denominators = { rows: partRows.length, tokens: sum(partRows), generationTokens };
        learningRate = this.#learningRate(iteration, step++);
        const result = await this.#step(
          rollouts,
          part.filter((g) => needsForward[g]),
          learningRate,
          ({ batch, tokens, both }) => {
            const [logprobs, entropy] = columns(this.#tf, both);
            return grpoLoss(
              this.#tf,
              {
                rowOf: batch.packed.rowOf,
                numRows: batch.packed.numRows,
                logprobs,
                entropy,
                oldLogprobs: old === null ? null : tokens(old),
                behaviourLogprobs:
                  run.old_logprobs === "behaviour" ? null : tokens(rows.map((row) => row.completion.behaviourLogprobs)),
                refLogprobs: reference === null ? null : tokens(reference),
                advantages: perToken(
                  batch.rows.map((row) => advantages[row]!),
                  batch.packed.rowOf,
                ),
                mask: lossMask(
                  batch.packed.rowOf,
                  batch.rows.map((row) => rows[row]!.truncated),
                  run.mask_truncated_completions,
                ),
              },
              run,
              denominators,
            );
          },
        );
        metrics = mergeMetrics(metrics, result.metrics);
        loss += result.loss / steps;
        gradNorm += result.gradNorm / steps;
      }
    }
    return {
      perRow: rows.map((row, i) => new Float32Array(row.completion.ids.length).fill(advantages[i]!)),
      metrics: {
        ...tokenMetrics(metrics),
        loss,
        grad_norm: gradNorm,
        learning_rate: learningRate,
        frac_reward_zero_std: share(relative.zeroStd),
        frac_groups_forwarded: forwarded.length / all.length,
        reward_std: meanOf(rowsOf.map((members) => unbiasedStd(members.flatMap((row) => rows[row]!.reward ?? [])))),
      },
    };
  }

  // -------------------------------------------------------------------------------------------------------
  // PPO

  async #ppo(
    rollouts: Rollouts,
    iteration: number,
  ): Promise<{ perRow: Float32Array[]; metrics: Record<string, number> }> {
    const run = this.#run;
    const { rows, rowsOf, sequences } = rollouts;
    const all = sequences.map((_, g) => g);
    const before = await this.#evaluate(rollouts, all);
    const reference = run.kl_coef === 0 ? null : await this.#logprobs(rollouts, all, "reference");
    const flat = (perRow: readonly Float32Array[]): Float32Array => concat(perRow);
    const rowOf = Int32Array.from(rows.flatMap((row, i) => Array.from({ length: row.completion.ids.length }, () => i)));
    const ppo = ppoAdvantages(
      {
        rowOf,
        logprobs: flat(before.logprobs),
        refLogprobs: reference === null ? null : flat(reference),
        values: flat(before.values),
        scores: rows.map((row) => row.reward),
        truncated: rows.map((row) => row.truncated),
        bootstrapValues: run.bootstrap_truncated ? before.lastValues : null,
      },
      { ...run, kl_coef: this.klCoef },
    );
    const split = (values: Float32Array): Float32Array[] => {
      let at = 0;
      return rows.map((row) => values.subarray(at, (at += row.completion.ids.length)));
    };
    const [advantages, returns, mask] = [split(ppo.advantages), split(ppo.returns), split(ppo.mask)];
    const old =
      run.old_logprobs === "behaviour" ? rows.map((row) => row.completion.behaviourLogprobs) : before.logprobs;
    const warmup = iteration < run.critic_warmup_steps;

    let metrics: Record<string, number> = {};
    let loss = 0;
    let gradNorm = 0;
    let step = 0;
    let learningRate = 0;
    const steps = stepsPerIteration(run);
    const random = mulberry32(run.seed * 1_000_003 + iteration);
    for (let epoch = 0; epoch < run.num_ppo_epochs; epoch++) {
      for (const part of cut(shuffled(all, random), run.num_mini_batches)) {
        const tokensInPart = part
          .flatMap((g) => rowsOf[g]!)
          .reduce((sum, row) => sum + mask[row]!.reduce((a, b) => a + b, 0), 0);
        const denominators: Denominators = {
          rows: part.length * run.num_generations,
          tokens: tokensInPart,
          generationTokens: tokensInPart,
        };
        learningRate = this.#learningRate(iteration, step++);
        const result = await this.#step(rollouts, part, learningRate, ({ batch, tokens, both, values }) => {
          const tf = this.#tf;
          const value = valueLoss(
            tf,
            { values: values(), oldValues: tokens(before.values), returns: tokens(returns), mask: tokens(mask) },
            run,
            denominators,
          );
          const weightedValue = tf.mul(value.loss, run.vf_coef) as Scalar;
          const valueMetrics = { ...value.metrics, value_loss_sum: value.loss };
          if (warmup)
            return {
              loss: weightedValue,
              metrics: { ...valueMetrics, tokens_sum: tf.scalar(tokens(mask).reduce((a, b) => a + b, 0)) },
            };
          const [logprobs, entropy] = columns(tf, both);
          const policy = ppoPolicyLoss(
            tf,
            {
              rowOf: batch.packed.rowOf,
              numRows: batch.packed.numRows,
              logprobs,
              entropy,
              oldLogprobs: tokens(old),
              behaviourLogprobs:
                run.old_logprobs === "behaviour" ? null : tokens(rows.map((row) => row.completion.behaviourLogprobs)),
              refLogprobs: null,
              advantages: tokens(advantages),
              mask: tokens(mask),
            },
            run,
            denominators,
          );
          return {
            loss: tf.add(policy.loss, weightedValue) as Scalar,
            metrics: { ...policy.metrics, ...valueMetrics },
          };
        });
        metrics = mergeMetrics(metrics, result.metrics);
        loss += result.loss / steps;
        gradNorm += result.gradNorm / steps;
      }
    }
    if (run.kl_target !== null)
      this.klCoef = nextKlCoef(this.klCoef, ppo.meanKl, rows.length, {
        target: run.kl_target,
        horizon: run.kl_horizon,
      });
    return {
      perRow: advantages,
      metrics: {
        ...tokenMetrics(metrics),
        loss,
        grad_norm: gradNorm,
        learning_rate: learningRate,
        "value/loss": (metrics.value_loss_sum ?? 0) / steps,
        "value/clip_ratio": (metrics.value_clip_sum ?? 0) / Math.max(1, metrics.tokens_sum ?? 0),
        "value/explained_variance": explainedVariance(flat(before.values), ppo.returns, ppo.mask) ?? 0,
        ...(run.kl_coef === 0 ? {} : { kl: ppo.meanKl, kl_coef: this.klCoef }),
        frac_groups_forwarded: 1,
      },
    };
  }

  // ------------------------------------------------------------------------------------------
  // passes and steps

  /**
   * One optimizer step over the given groups, in microbatches; the loss function sees one
   * microbatch at a time.
   */
  async #step(
    rollouts: Rollouts,
    groups: readonly number[],
    learningRate: number,
    lossOf: (input: { batch: MicrobatchRows; tokens: Gather; both: Tensor; values: () => Tensor1D }) => Loss,
  ): Promise<{ loss: number; gradNorm: number; metrics: Record<string, number> }> {
    const tf = this.#tf;
    const run = this.#run;
    let gradient: Tensor | null = null;
    let loss = 0;
    let metrics: Record<string, number> = {};
    let microbatch = -1;
    for (const { prepared, rows } of this.#microbatches(rollouts, groups, false)) {
      microbatch++;
      const tokens: Gather = (perRow) => concat(rows.map((row) => perRow[row]!));
      let names: string[] = [];
      let kept: Scalar[] = [];
      const { value, grads } = tf.variableGrads(() => {
        const views = this.#model.views();
        const policy = this.#withDropout(this.#model.policy(views), microbatch);
        const hidden = hiddenStates(tf, this.#model.config, policy, prepared, run.model.gradient_checkpointing);
        const both = completionLogprobs(
          tf,
          this.#model.config,
          policy,
          hidden,
          prepared,
          run.temperature,
          run.entropy_coef !== 0,
        );
        const values = (): Tensor1D => {
          const trunk = this.#withDropout(this.#model.value(views), microbatch);
          const states = this.#model.separateValue
            ? hiddenStates(tf, this.#model.config, trunk, prepared, run.model.gradient_checkpointing)
            : hidden;
          return completionValues(tf, { tensors: views, lora: null }, states, prepared.predictors);
        };
        const result = lossOf({ batch: { packed: prepared.packed, rows }, tokens, both, values });
        names = Object.keys(result.metrics);
        kept = Object.values(result.metrics).map((scalar) => tf.keep(scalar));
        return result.loss;
      }, [this.#model.flat]);
      loss += (await value.data())[0]!;
      const numbers = await Promise.all(kept.map((scalar) => scalar.data()));
      metrics = mergeMetrics(metrics, Object.fromEntries(names.map((name, i) => [name, numbers[i]![0]!])));
      gradient = addGradient(tf, gradient, Object.values(grads)[0]!);
      tf.dispose([value, ...kept]);
      disposeBatch(tf, prepared);
    }
    // Every advantage may be zero; the moments still decay.
    gradient ??= tf.zerosLike(this.#model.flat as Tensor);
    const gradNorm = await this.optimizer.update(gradient, learningRate);
    gradient.dispose();
    this.#countBadGradient(gradNorm);
    return { loss, gradNorm, metrics };
  }

  /** Adapters drop inputs in the gradient forward only, anew in every microbatch. */
  #withDropout(weights: NamedWeights, microbatch: number): NamedWeights {
    const { seed, lora } = this.#run;
    if (weights.lora === null || lora.lora_dropout === 0) return weights;
    const dropout = { rate: lora.lora_dropout, seed: `${seed} ${this.optimizer.step} ${microbatch}` };
    return { ...weights, lora: { ...weights.lora, dropout } };
  }

  #countBadGradient(gradNorm: number): void {
    if (Number.isFinite(gradNorm)) {
      this.#badInARow = 0;
      return;
    }
    this.skippedUpdates++;
    if (++this.#badInARow < MAX_BAD_GRADIENTS) return;
    throw new UserError(
      `the gradient was not finite (${gradNorm}) ${MAX_BAD_GRADIENTS} times in a row, so training has diverged. ` +
        `Lower learning_rate (now ${this.#run.learning_rate}) and resume from an earlier checkpoint.`,
    );
  }

  /**
   * Log-probabilities of the completions of some groups under one set of weights; rows of other
   * groups stay empty.
   */
  async #logprobs(
    rollouts: Rollouts,
    groups: readonly number[],
    which: "policy" | "reference",
  ): Promise<Float32Array[]> {
    const out = rollouts.rows.map(() => new Float32Array(0));
    for (const { prepared, rows } of this.#microbatches(rollouts, groups, false)) {
      const views = which === "policy" ? this.#model.views() : null;
      const weights = views === null ? this.#model.reference() : this.#model.policy(views);
      const flat = await this.#forward(weights, prepared, (hidden) => this.#logprobColumn(weights, hidden, prepared));
      scatter(flat, rows, rollouts.rows, out);
      if (views !== null) this.#tf.dispose([...views.values()]);
      disposeBatch(this.#tf, prepared);
    }
    return out;
  }

  /** Log-probabilities and values at the start of a PPO iteration. */
  async #evaluate(rollouts: Rollouts, groups: readonly number[]): Promise<Evaluated> {
    const keepLast = this.#run.bootstrap_truncated;
    const logprobs = rollouts.rows.map(() => new Float32Array(0));
    const values = rollouts.rows.map(() => new Float32Array(0));
    const lastValues = new Float32Array(rollouts.rows.length);
    for (const { prepared, rows } of this.#microbatches(rollouts, groups, keepLast)) {
      const views = this.#model.views();
      const policy = this.#model.policy(views);
      const head: NamedWeights = { tensors: views, lora: null };
      const valuesOf = (hidden: Tensor): Tensor1D => {
        const values = completionValues(this.#tf, head, hidden, prepared.predictors);
        return prepared.lastRows === null
          ? values
          : this.#tf.concat1d([values, completionValues(this.#tf, head, hidden, prepared.lastRows)]);
      };
      const shared = !this.#model.separateValue;
      const flat = await this.#forward(policy, prepared, (hidden) =>
        shared
          ? this.#tf.concat1d([this.#logprobColumn(policy, hidden, prepared), valuesOf(hidden)])
          : this.#logprobColumn(policy, hidden, prepared),
      );
      const numTargets = prepared.packed.targets.length;
      const valuePart = shared
        ? flat.subarray(numTargets)
        : await this.#forward(this.#model.value(views), prepared, valuesOf);
      scatter(flat, rows, rollouts.rows, logprobs);
      scatter(valuePart, rows, rollouts.rows, values);
      if (keepLast) rows.forEach((row, i) => (lastValues[row] = valuePart[numTargets + i]!));
      this.#tf.dispose([...views.values()]);
      disposeBatch(this.#tf, prepared);
    }
    return { logprobs, values, lastValues };
  }

  #logprobColumn(weights: NamedWeights, hidden: Tensor, prepared: Microbatch): Tensor1D {
    return columns(
      this.#tf,
      completionLogprobs(this.#tf, this.#model.config, weights, hidden, prepared, this.#run.temperature),
    )[0];
  }

  async #forward(
    weights: NamedWeights,
    prepared: Microbatch,
    read: (hidden: Tensor) => Tensor1D,
  ): Promise<Float32Array> {
    const result = this.#tf.tidy(() => read(hiddenStates(this.#tf, this.#model.config, weights, prepared)));
    const values = (await result.data()) as Float32Array;
    result.dispose();
    return values;
  }

  /**
   * Log-probabilities of single completions under published weights other than the current ones
   * (the actor/learner gap is measured under the very version that sampled).
   */
  async logprobsUnder(published: Float32Array, sequences: readonly SequenceGroup[]): Promise<Float32Array[]> {
    const tf = this.#tf;
    const flat = tf.tensor1d(published);
    const views = this.#model.viewsOfPublished(flat);
    const weights = this.#model.policy(views);
    const out: Float32Array[][] = sequences.map(() => []);
    for (const indices of microbatches(sequences, this.#run.tokens_per_microbatch)) {
      const chosen = indices.map((i) => sequences[i]!);
      const prepared = prepareMicrobatch(tf, this.#model.config, chosen);
      const values = await this.#forward(weights, prepared, (hidden) => this.#logprobColumn(weights, hidden, prepared));
      let at = 0;
      for (const i of indices) out[i] = sequences[i]!.completions.map(({ length }) => values.slice(at, (at += length)));
      disposeBatch(tf, prepared);
    }
    tf.dispose([...views.values(), flat]);
    return out.flat();
  }

  *#microbatches(
    rollouts: Rollouts,
    groups: readonly number[],
    keepLast: boolean,
  ): Generator<{ prepared: Microbatch; rows: number[] }> {
    const chosen = groups.map((g) => rollouts.sequences[g]!);
    for (const indices of microbatches(chosen, this.#run.tokens_per_microbatch)) {
      const prepared = prepareMicrobatch(
        this.#tf,
        this.#model.config,
        indices.map((i) => chosen[i]!),
        keepLast,
      );
      yield { prepared, rows: indices.flatMap((i) => rollouts.rowsOf[groups[i]!]!) };
    }
  }

  #learningRate(iteration: number, step: number): number {
    const run = this.#run;
    const perIteration = stepsPerIteration(run);
    const factor = learningRateFactor(
      run.lr_scheduler_type,
      iteration * perIteration + step,
      run.warmup_steps,
      run.max_steps * perIteration,
    );
    return run.learning_rate * factor;
  }
}

/** A microbatch with the batch-wide numbers of its rows. */
interface MicrobatchRows {
  readonly packed: Microbatch["packed"];
  readonly rows: readonly number[];
}

/** Per-row arrays of the batch → the microbatch's flat [N]. */
type Gather = (perRow: readonly Float32Array[]) => Float32Array;

/** [M, 2] → log-probabilities [M], entropies [M]. */
function columns(tf: TF, both: Tensor): [Tensor1D, Tensor1D] {
  return tf.split(both, 2, 1).map((column) => tf.reshape(column, [-1])) as [Tensor1D, Tensor1D];
}

function concat(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Cuts a microbatch's flat values into its rows and puts each at its batch-wide place. */
function scatter(flat: Float32Array, numbers: readonly number[], rows: readonly Row[], into: Float32Array[]): void {
  let at = 0;
  for (const row of numbers) into[row] = flat.slice(at, (at += rows[row]!.completion.ids.length));
}

/** Consecutive parts whose sizes differ by at most one. */
function cut<T>(items: readonly T[], parts: number): T[][] {
  return Array.from({ length: parts }, (_, i) =>
    items.slice(Math.floor((i * items.length) / parts), Math.floor(((i + 1) * items.length) / parts)),
  );
}

function shuffled(items: readonly number[], random: () => number): number[] {
  const order = [...items];
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

const meanOf = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
const share = (flags: readonly boolean[]): number => flags.filter(Boolean).length / Math.max(1, flags.length);

function unbiasedStd(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const mean = meanOf(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
}

/** Sums over tokens → TRL's metric names. */
function tokenMetrics(sums: Record<string, number>): Record<string, number> {
  const tokens = Math.max(1, sums.tokens_sum ?? 0);
  const named: [string, string][] = [
    ["clip_low_sum", "clip_ratio/low_mean"],
    ["clip_high_sum", "clip_ratio/high_mean"],
    ["clip_region_sum", "clip_ratio/region_mean"],
    ["approxkl_sum", "policy/approxkl"],
    ["kl_sum", "kl"],
    ["entropy_sum", "entropy"],
    ["sampling_ratio_sum", "sampling/importance_sampling_ratio/mean"],
    ["sampling_gap_sum", "sampling/sampling_logp_difference/mean"],
  ];
  const metrics = Object.fromEntries(
    named.flatMap(([sum, name]) => (sums[sum] === undefined ? [] : [[name, sums[sum] / tokens]])),
  );
  if (sums.sampling_ratio_max !== undefined)
    metrics["sampling/importance_sampling_ratio/max"] = sums.sampling_ratio_max;
  return metrics;
}

/** What the batch itself says, whatever the algorithm. */
function rewardMetrics({ rows }: Rollouts): Record<string, number> {
  const scored = rows.flatMap((row) => row.reward ?? []);
  const lengths = rows.map((row) => row.completion.ids.length);
  const functions = Object.keys(rows[0]?.completion.rewards ?? {});
  const outcome = (name: Completion["outcome"]): number => share(rows.map((row) => row.completion.outcome === name));
  return {
    reward: meanOf(scored),
    reward_std: unbiasedStd(scored),
    ...Object.fromEntries(
      functions.map((name) => [
        `rewards/${name}/mean`,
        meanOf(rows.flatMap((row) => row.completion.rewards[name] ?? [])),
      ]),
    ),
    accuracy: outcome("correct"),
    "outcome/unparsed": outcome("unparsed"),
    "outcome/truncated": outcome("truncated"),
    reward_errors: rows.reduce((sum, row) => sum + row.completion.rewardErrors.length, 0),
    "completions/mean_length": meanOf(lengths),
    "completions/min_length": Math.min(...lengths),
    "completions/max_length": Math.max(...lengths),
    "completions/clipped_ratio": share(rows.map((row) => row.truncated)),
  };
}
