/**
 * Supervised warm-start: cross-entropy on answers, AdamW, cosine schedule, checkpoints, resume.
 * Uses the same policy, packing, optimizer and checkpoints as reinforcement learning.
 */
import type { Tensor } from "@tensorflow/tfjs";
import type { ModelConfig } from "../model/config.js";
import { saveModelFolder } from "../model/folder.js";
import { layoutSize, weightLayout } from "../model/layout.js";
import { mulberry32 } from "../math/normal.js";
import type { TF } from "./backend/backend.js";
import { listCheckpoints, loadTrainingState, pruneCheckpoints, saveCheckpoint } from "../run/checkpoint.js";
import { AdamW } from "./policy/optimizer.js";
import { groupTokens, microbatches, type SequenceGroup } from "./policy/packing.js";
import { completionLogprobs, disposeBatch, hiddenStates, prepareMicrobatch, splitFlat } from "./policy/policy.js";
import { addGradient } from "./policy/primitives.js";
import { learningRateFactor } from "./algorithms/schedule.js";

export interface SftOptions {
  readonly maxSteps: number;
  /** Examples per step. */
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
  /** Mean negative log-likelihood of the answers' tokens, nats. */
  readonly loss: number;
  readonly gradNorm: number;
  readonly learningRate: number;
  readonly tokens: number;
}

/**
 * Weights as Hugging Face initialises them: normal(0, 0.02) for matrices, 0 for biases, 1 for norms
 * (`PreTrainedModel._init_weights`, initializer_range 0.02).
 */
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

/** Example indices of one step: each epoch is a shuffle of its own, a function of (seed, epoch). */
function* exampleOrder(numExamples: number, seed: number): Generator<number> {
  for (let epoch = 0; ; epoch++) {
    const order = Int32Array.from({ length: numExamples }, (_, i) => i);
    const random = mulberry32(seed * 1_000_003 + epoch);
    for (let i = numExamples - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    yield* order;
  }
}

/**
 * Trains on `example(i)` and leaves the final model as an HF folder in `outDir` (checkpoints in
 * `outDir/checkpoints`).
 * @param packed initial weights, used when there is no checkpoint to resume from
 * @param sourceFolder gives config.json and the tokenizer's files
 */
export async function trainSft(
  tf: TF,
  config: ModelConfig,
  packed: Float32Array,
  sourceFolder: string,
  outDir: string,
  numExamples: number,
  example: (i: number) => SequenceGroup,
  options: SftOptions,
  resume: boolean,
  onStep: (progress: SftProgress) => void,
): Promise<void> {
  const layout = weightLayout(config);
  const last = resume ? listCheckpoints(outDir).at(-1) : undefined;
  const state = last === undefined ? null : loadTrainingState(outDir, last);
  const flat = tf.tidy(() => tf.variable(tf.tensor1d(state?.vectors.weights ?? packed)));
  const optimizer = new AdamW(tf, flat, layout, {
    beta1: 0.9,
    beta2: 0.98,
    epsilon: 1e-8,
    weightDecay: options.weightDecay,
    maxGradNorm: options.maxGradNorm,
  });
  if (state !== null) optimizer.restore({ step: last!, m: state.vectors.adam_m!, v: state.vectors.adam_v! });
  const order = exampleOrder(numExamples, options.seed);
  for (let i = 0; i < (last ?? 0) * options.batchSize; i++) order.next();

  for (let step = (last ?? 0) + 1; step <= options.maxSteps; step++) {
    const groups = Array.from({ length: options.batchSize }, () => example(order.next().value as number));
    const targets = groups.reduce((sum, group) => sum + group.completions[0]!.length, 0);
    let gradient: Tensor | null = null;
    let loss = 0;
    for (const indices of microbatches(groups, options.tokensPerMicrobatch)) {
      const batch = prepareMicrobatch(
        tf,
        config,
        indices.map((i) => groups[i]!),
      );
      const { value, grads } = tf.variableGrads(() => {
        const weights = { tensors: splitFlat(tf, flat, layout), lora: null };
        const both = completionLogprobs(tf, config, weights, hiddenStates(tf, config, weights, batch), batch, 1);
        return tf.mul(tf.sum(tf.slice(both, [0, 0], [-1, 1])), -1 / targets).asScalar();
      }, [flat]);
      loss += (await value.data())[0]!;
      gradient = addGradient(tf, gradient, Object.values(grads)[0]!);
      value.dispose();
      disposeBatch(tf, batch);
    }
    const learningRate =
      options.learningRate * learningRateFactor("cosine", step - 1, options.warmupSteps, options.maxSteps);
    const gradNorm = await optimizer.update(gradient!, learningRate);
    gradient!.dispose();
    onStep({ step, loss, gradNorm, learningRate, tokens: groups.reduce((sum, group) => sum + groupTokens(group), 0) });
    if (step % options.saveSteps === 0 || step === options.maxSteps) {
      const weights = (await flat.data()) as Float32Array;
      const adam = await optimizer.state();
      saveCheckpoint(outDir, step, (folder) => saveModelFolder(folder, sourceFolder, config, weights), {
        vectors: { weights, adam_m: adam.m, adam_v: adam.v },
        values: { step, loss, options },
      });
      pruneCheckpoints(outDir, 2);
    }
  }
  saveModelFolder(outDir, sourceFolder, config, (await flat.data()) as Float32Array);
  optimizer.dispose();
  flat.dispose();
}
