/** Log-probabilities of given completions by the learner's forward pass, without training. */
import type { ModelFiles } from "../model/read-model.js";
import { weightLayout } from "../model/layout.js";
import { loraLayout } from "../model/lora.js";
import { loadPacked } from "../model/model-weights.js";
import { type BackendChoice, startBackend } from "./backend/backend.js";
import { splitFlat } from "./policy/named-weights.js";
import { completionLogprobs, disposeBatch, hiddenStates, prepareMicrobatch } from "./policy/policy.js";

export interface ScoredSequence {
  readonly promptIds: Int32Array;
  readonly completion: Int32Array;
}

/** Returns [sequences] nats of each completion token, by training's packed forward pass. */
export async function scoreSequences(
  files: ModelFiles,
  sequences: readonly ScoredSequence[],
  { temperature, backend, threads }: { temperature: number; backend: BackendChoice; threads: number },
): Promise<Float32Array[]> {
  const { shape, baseFolder, lora } = files;
  const { tf } = await startBackend(backend, threads);
  const base = splitFlat(tf, tf.tensor1d(loadPacked(baseFolder, shape)), weightLayout(shape));
  const adapters = lora === null ? [] : splitFlat(tf, tf.tensor1d(files.published()), loraLayout(shape, lora));
  const scaled = lora === null ? null : { scale: lora.lora_alpha / lora.r, dropout: null };
  const weights = { tensors: new Map([...base, ...adapters]), lora: scaled };
  const scores: Float32Array[] = [];
  for (const { promptIds, completion } of sequences) {
    const batch = prepareMicrobatch(tf, shape, [{ promptIds, completions: [completion] }]);
    const both = tf.tidy(() =>
      completionLogprobs(tf, shape, weights, hiddenStates(tf, shape, weights, batch), batch, temperature),
    );
    // log-probability and entropy of each token stand side by side
    scores.push(((await both.data()) as Float32Array).filter((_, i) => i % 2 === 0));
    both.dispose();
    disposeBatch(tf, batch);
  }
  return scores;
}
