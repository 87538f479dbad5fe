/**
 * What a microbatch of Qwen2.5-3B costs a GPU beside arithmetic: TensorFlow's operations, each a
 * launch, and numbers copied to it, for each of which it must finish what it was given. Counted on
 * the CPU with 36 layers of a small width, in as many parts as 4,096 tokens of the 3B have.
 */
import type { Tensor } from "@tensorflow/tfjs";
import { expect, test } from "vitest";
import { startBackend } from "../../../src/learner/backend/backend.js";
import { splitFlat } from "../../../src/learner/policy/named-weights.js";
import { PART_SIZES } from "../../../src/learner/policy/part-sizes.js";
import { hiddenStates, prepareMicrobatch } from "../../../src/learner/policy/policy.js";
import { tokenLogprobs } from "../../../src/learner/policy/token-logprobs.js";
import { parseModelConfig } from "../../../src/model/config.js";
import { layoutSize, weightLayout } from "../../../src/model/layout.js";
import { loraLayout } from "../../../src/model/lora.js";

const TOKENS = 4096;
const QWEN_3B = { layers: 36, intermediate: 11_008, vocabulary: 151_936 };

interface Binding {
  executeOp(name: string, ...rest: unknown[]): unknown;
  createTensor(shape: number[], dtype: number, values: { length: number }): unknown;
}
const FLOAT32 = 1;

const small = parseModelConfig(
  {
    model_type: "qwen2",
    vocab_size: 64,
    hidden_size: 32,
    intermediate_size: 32,
    num_hidden_layers: QWEN_3B.layers,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 256,
    tie_word_embeddings: true,
  },
  "test",
);

test("a microbatch of the 3B's shape takes at most 15,000 operations and 1,000 uploads on a GPU", async () => {
  const { tf } = await startBackend("tensorflow", 1);
  const target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
  const layout = loraLayout(small, { r: 4, target_modules });
  const flat = tf.variable(tf.randomUniform([layoutSize(layout)], -0.1, 0.1));
  const base = new Map(weightLayout(small).map(({ name, shape }) => [name, tf.randomUniform([...shape], -0.1, 0.1)]));
  const completions = Array.from({ length: 8 }, () => Int32Array.from({ length: 12 }, (_, i) => i + 5));
  const batch = prepareMicrobatch(tf, small, [{ promptIds: Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8), completions }]);
  const [rows, targets] = [batch.packed.ids.length, batch.packed.targets.length];

  /** Elements of a part of ours that make as many parts as the 3B's sizes do. */
  const scaled = (elements: number, width: number, ourRows: number, ourWidth: number): number =>
    Math.ceil(ourRows / Math.ceil((TOKENS * width) / elements)) * ourWidth;
  const maxMlp = scaled(PART_SIZES.gpu.mlp, QWEN_3B.intermediate, rows, small.intermediateSize);
  const maxLogits = scaled(PART_SIZES.gpu.frozenHead, QWEN_3B.vocabulary, targets, small.vocabSize);

  const loss = (): Tensor => {
    const weights = { tensors: new Map([...base, ...splitFlat(tf, flat, layout)]), lora: { scale: 1, dropout: null } };
    const hidden = hiddenStates(tf, small, weights, batch, true, maxMlp);
    const both = tokenLogprobs(
      tf,
      tf.gather(hidden, batch.predictors),
      base.get("model.embed_tokens.weight")!,
      batch.packed.targets,
      1,
      { gradientOf: "logprobs", frozenHead: true, maxLogits },
    );
    return tf.mean(tf.slice(both, [0, 0], [-1, 1]));
  };
  const step = async (): Promise<void> => {
    const { value, grads } = tf.variableGrads(() => loss() as never, [flat]);
    await value.data();
    tf.dispose([value, ...Object.values(grads)]);
  };
  await step(); // constants, indices and tables are copied once

  const backend = tf.backend() as unknown as { binding: Binding };
  const real = backend.binding;
  const seen = { operations: 0, uploads: 0 };
  // The binding's own methods cannot be replaced: a copy of it counts.
  const names = Object.getOwnPropertyNames(real) as (keyof Binding)[];
  backend.binding = {
    ...(Object.fromEntries(names.map((name) => [name, real[name]])) as unknown as Binding),
    executeOp: (name, ...rest) => {
      seen.operations++;
      return real.executeOp.call(real, name, ...rest);
    },
    createTensor: (shape, dtype, values) => {
      if (dtype === FLOAT32) seen.uploads++;
      return real.createTensor.call(real, shape, dtype, values);
    },
  };
  await step();
  backend.binding = real;

  console.info(`operations ${seen.operations}, uploads ${seen.uploads}`);
  expect(seen.operations).toBeGreaterThan(QWEN_3B.layers * 100);
  expect(seen.operations).toBeLessThanOrEqual(15_000);
  expect(seen.uploads).toBeLessThanOrEqual(1_000);
}, 120_000);
