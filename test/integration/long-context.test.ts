/** Actor and learner agree at 4,096 tokens under the theta and head size of Qwen2.5. */
import { describe, expect, it } from "vitest";
import { OrtEngine } from "../../src/engine/engine.js";
import { generateAll } from "../../src/engine/local.js";
import { startBackend } from "../../src/learner/backend/backend.js";
import { splitFlat } from "../../src/learner/policy/named-weights.js";
import { completionLogprobs, hiddenStates, prepareMicrobatch } from "../../src/learner/policy/policy.js";
import { Draw } from "../../src/math/random.js";
import { parseModelConfig } from "../../src/model/config.js";
import { weightLayout } from "../../src/model/layout.js";
import { reason, unrunnable } from "../support/run.js";
import { tinyWeights } from "../support/tiny.js";

const TOKENS = 4096;
const shape = parseModelConfig(
  {
    model_type: "qwen2",
    vocab_size: 64,
    hidden_size: 256,
    intermediate_size: 256,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    max_position_embeddings: TOKENS,
    rope_theta: 1e6,
    tie_word_embeddings: true,
  },
  "long",
);

describe.skipIf(unrunnable)(`a random Qwen2 of two layers${reason}`, () => {
  it("has the same log-probabilities on both sides up to the last of 4,096 tokens", { timeout: 60_000 }, async () => {
    const layout = weightLayout(shape);
    // Attention that depends on positions: frequencies rounded in two ways differ by 1.7e-4.
    const packed = tinyWeights(layout).map((value, i) => (i < 64 * 256 ? value / 4 : value / 2));
    for (const { name, offset, size } of layout) if (name.includes("norm")) packed.fill(1, offset, offset + size);
    const draw = new Draw(7);
    const ids = Int32Array.from({ length: TOKENS }, () => draw.int(0, shape.vocabSize - 1));
    const [prompt, completion] = [ids.slice(0, TOKENS - 256), ids.slice(TOKENS - 256)];

    const engine = await OrtEngine.create(shape, { threads: 2, maxRows: 1, segmentLength: 8 });
    await engine.load(packed, 0);
    const sampling = { temperature: 1, maxNewTokens: completion.length, stopIds: [] };
    const request = { requestId: "0", promptIds: prompt, groupSize: 1, seed: 0n, sampling, forced: [completion] };
    const [group] = await generateAll(engine, [request]);
    await engine.dispose();

    const { tf } = await startBackend("auto", 2);
    const weights = { tensors: splitFlat(tf, tf.tensor1d(packed), layout), lora: null };
    const batch = prepareMicrobatch(tf, shape, [{ promptIds: prompt, completions: [completion] }]);
    const hidden = hiddenStates(tf, shape, weights, batch);
    const values = await completionLogprobs(tf, shape, weights, hidden, batch, 1).data();
    const gaps = Array.from(group!.completions[0]!.logprobs, (value, t) => Math.abs(value - values[2 * t]!));
    expect(gaps).toHaveLength(256);
    expect(Math.max(...gaps)).toBeLessThan(1e-4);
  });
});
