/** Supervised warm-start: reinforcement learning's steps on the same policy, with cross-entropy. */
import type { Scalar } from "@tensorflow/tfjs";
import { runConfigSchema, type RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { mulberry32, shuffled } from "../math/random.js";
import type { ModelConfig } from "../model/config.js";
import { layoutSize, weightLayout } from "../model/layout.js";
import { type TrainingState, listCheckpoints, pruneCheckpoints, saveCheckpoint } from "../run/checkpoint.js";
import { checkpointFolder } from "../run/paths.js";
import { learningRateAt } from "./algorithms/schedule.js";
import type { TF } from "./backend/backend.js";
import { TrainableModel, type BaseWeights } from "./policy/model.js";
import { groupTokens, type SequenceGroup } from "./policy/packing.js";
import type { Loss } from "./policy/loss.js";
import { type LossInput, PolicyOptimizer } from "./policy/step.js";

export interface SftOptions {
  /** Hugging Face folder; with `fromScratch` only its config.json and tokenizer are read. */
  readonly model: string;
  /** Folder that becomes the trained model; checkpoints go to its checkpoints/. */
  readonly out: string;
  /** Trains an adapter of `loraR` and `loraAlpha`; the folders are then PEFT's. */
  readonly lora?: true;
  readonly loraR: number;
  readonly loraAlpha: number;
  readonly resume: boolean;
  readonly maxSteps: number;
  readonly batchSize: number;
  readonly learningRate: number;
  readonly warmupSteps: number;
  readonly weightDecay: number;
  readonly maxGradNorm: number;
  readonly seed: number;
  readonly saveSteps: number;
  readonly tokensPerMicrobatch: number;
}

export interface SftProgress {
  readonly step: number;
  /** Mean negative log-likelihood of the answers' tokens, in nats. */
  readonly loss: number;
  readonly gradNorm: number;
  readonly learningRate: number;
  readonly tokens: number;
  /** Updates so far whose loss or gradient was not finite; they changed nothing. */
  readonly skipped: number;
}

/** normal(0, 0.02) for matrices, 0 for biases, 1 for norms (transformers, `_init_weights`). */
export function initialWeights(config: ModelConfig, seed: number): Float32Array {
  const layout = weightLayout(config);
  const packed = new Float32Array(layoutSize(layout));
  const random = mulberry32(seed);
  for (const { name, offset, size } of layout) {
    if (name.endsWith(".bias")) continue;
    for (let i = offset; i < offset + size; i++) {
      // Box-Muller transform
      packed[i] = name.includes("norm")
        ? 1
        : 0.02 * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    }
  }
  return packed;
}

/** Yields example indices; each epoch is a shuffle of its own, a function of (seed, epoch). */
function* exampleOrder(numExamples: number, seed: number): Generator<number> {
  for (let epoch = 0; ; epoch++) yield* shuffled(numExamples, mulberry32(seed * 1_000_003 + epoch));
}

export interface SftExamples {
  readonly size: number;
  readonly example: (i: number) => SequenceGroup;
}

/** The settings of launch that a supervised training has as well. */
export function sftRun(options: SftOptions): RunConfig {
  return runConfigSchema.parse({
    model: { path: options.model },
    lora: { enabled: options.lora === true, r: options.loraR, lora_alpha: options.loraAlpha },
    seed: options.seed,
    max_steps: options.maxSteps,
    learning_rate: options.learningRate,
    lr_scheduler_type: "cosine",
    warmup_steps: options.warmupSteps,
    adam_beta2: 0.98,
    weight_decay: options.weightDecay,
    max_grad_norm: options.maxGradNorm,
    tokens_per_microbatch: options.tokensPerMicrobatch,
  });
}

/**
 * Leaves the final model as an HF folder in `out`; the source folder has its other files.
 * @param start the checkpoint to go on from @param saved what each checkpoint holds besides
 */
export async function trainSft(
  tf: TF,
  shape: ModelConfig,
  base: BaseWeights,
  { size, example }: SftExamples,
  options: SftOptions,
  start: { readonly step: number; readonly state: TrainingState } | null,
  saved: Readonly<Record<string, unknown>>,
  onStep: (progress: SftProgress) => void,
): Promise<void> {
  const { model: sourceFolder, out: outDir } = options;
  const run = sftRun(options);
  const last = start?.step ?? 0;
  const model = new TrainableModel(tf, shape, run, base, start?.state.vectors.weights ?? null);
  const policy = new PolicyOptimizer({ tf, run, model });
  if (start !== null) {
    const { adam_m: m, adam_v: v } = start.state.vectors;
    const { optimizerSteps = last, skipped = 0 } = start.state.values as { optimizerSteps?: number; skipped?: number };
    policy.optimizer.restore({ step: optimizerSteps, m: m!, v: v! });
    policy.skippedUpdates = skipped;
  }
  const order = exampleOrder(size, options.seed);
  for (let i = 0; i < last * options.batchSize; i++) order.next();

  let lastFinite = last;
  /** A checkpoint is good when the loss of the step after it was finite. */
  const diverged = (reason: string): never => {
    const good = listCheckpoints(outDir).findLast((saved) => saved < lastFinite);
    const where =
      good === undefined ? "no checkpoint is older" : `the last good weights are in ${checkpointFolder(outDir, good)}`;
    throw new UserError(`${reason} The loss was finite until step ${lastFinite}; ${where}.`);
  };
  const all = Array.from({ length: options.batchSize }, (_, i) => i);
  for (let step = last + 1; step <= options.maxSteps; step++) {
    const groups = all.map(() => example(order.next().value as number));
    const targets = groups.reduce((sum, group) => sum + group.completions[0]!.length, 0);
    const learningRate = learningRateAt(run, step - 1, 0);
    const lossOf = (input: LossInput): Loss => ({
      loss: tf.mul(tf.sum(input.policy().logprobs), -1 / targets) as Scalar,
      metrics: {},
    });
    const { loss, gradNorm } = await policy.step(groups, all, learningRate, lossOf).catch((error: unknown) => {
      throw error instanceof UserError ? diverged(error.message) : error;
    });
    const isGood = Number.isFinite(gradNorm);
    if (isGood) lastFinite = step;
    const tokens = groups.reduce((sum, group) => sum + groupTokens(group), 0);
    const { skippedUpdates: skipped } = policy;
    onStep({ step, loss, gradNorm, learningRate, tokens, skipped });
    if (!isGood && step === options.maxSteps)
      diverged("Loss or gradient was not finite at the last step, so the training has not ended well.");
    if (!isGood) continue;
    if (step % options.saveSteps !== 0 && step !== options.maxSteps) continue;
    const weights = (await model.flat.data()) as Float32Array;
    const adam = await policy.optimizer.state();
    saveCheckpoint(outDir, step, (folder) => model.save(folder, sourceFolder, weights), {
      vectors: { weights, adam_m: adam.m, adam_v: adam.v },
      values: { step, loss, optimizerSteps: adam.step, skipped, ...saved },
    });
    pruneCheckpoints(outDir, 2);
  }
  model.save(outDir, sourceFolder, (await model.flat.data()) as Float32Array);
  policy.optimizer.dispose();
  model.dispose();
}
