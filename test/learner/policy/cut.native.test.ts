/**
 * A GRPO step with LoRA as configs/qwen2.5-3b.yaml takes it, at Qwen2.5-3B's proportions with a
 * small vocabulary, against torch and TRL. At full width: npm run check:3b.
 */
import { beforeAll, describe, expect, test } from "vitest";
import { cutAdapters, cutTensor, cutWeights } from "../../../bench/cut-model.js";
import { startBackend, type TF } from "../../../src/learner/backend/backend.js";
import { TrainableModel, baseFromPacked } from "../../../src/learner/policy/model.js";
import { Updater } from "../../../src/learner/algorithms/update.js";
import { parseModelConfig } from "../../../src/model/config.js";
import { weightLayout } from "../../../src/model/layout.js";
import { loraLayout } from "../../../src/model/lora.js";
import {
  cutBatch,
  cutRun,
  gapsOfStep,
  listGap,
  logprobsOfBatch,
  modes,
  readCutGolden,
} from "../../support/cut-golden.js";
import { root } from "../../support/run.js";

const golden = readCutGolden(root, "qwen3b_cut_small");
const config = parseModelConfig(golden.config, "golden");
const batch = cutBatch(golden);
let tf: TF;
beforeAll(async () => {
  ({ tf } = await startBackend("auto", 1));
});

describe.each(modes)("one step, old_logprobs: %s", (mode) => {
  test.each([true, false])(
    "loss, gradients and log-probabilities are torch's (checkpointing %s)",
    async (checkpointing) => {
      const shipped = cutRun(root, golden, mode);
      const run = { ...shipped, model: { ...shipped.model, gradient_checkpointing: checkpointing } };
      const adapters = cutAdapters(config, loraLayout(config, run.lora));
      const model = new TrainableModel(tf, config, run, baseFromPacked(cutWeights(config)), adapters);
      const updater = new Updater({ tf, run, model });
      const { metrics } = await updater.update(batch, 0);
      const gaps = await gapsOfStep(updater, model, run, metrics["loss"]!, golden[mode]);
      for (const [name, gap] of Object.entries(gaps)) expect(gap, name).toBeLessThan(1e-4);
      expect(listGap(await logprobsOfBatch({ tf, run, model }, batch), golden.logprobs)).toBeLessThan(1e-5);
      updater.policy.optimizer.dispose();
      model.dispose();
    },
  );
});

test("the formula's base is what bfloat16 holds, so that a file of it loses nothing", () => {
  for (const entry of weightLayout(config)) {
    const bits = new Uint32Array(cutTensor(entry).buffer);
    expect(bits.every((word) => (word & 0xffff) === 0)).toBe(true);
  }
});
