/** LoRA against PEFT (test/reference/lora_reference.py): numbers, gradients, files. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../../src/errors.js";
import { startBackend, type TF } from "../../src/learner/backend/backend.js";
import { publishedLogprobs } from "../../src/learner/policy/forward.js";
import { TrainableModel, baseFromPacked } from "../../src/learner/policy/model.js";
import {
  completionLogprobs,
  disposeBatch,
  hiddenStates,
  prepareMicrobatch,
  type Microbatch,
} from "../../src/learner/policy/policy.js";
import { type NamedWeights } from "../../src/learner/policy/named-weights.js";
import { loadAdapter, loraLayout, saveAdapterFolder } from "../../src/model/lora.js";
import { readSafetensors } from "../../src/model/safetensors/read.js";
import { writeSafetensors } from "../../src/model/safetensors/write.js";
import { golden, goldenAdapters, goldenBase, goldenConfig, goldenGroups } from "../support/lora-golden.js";
import { relativeGap, tinyBatch, tinyLearner, tinyRun } from "../support/tiny.js";

const run = tinyRun({ lora: { enabled: true, ...(golden.lora as object) }, beta: 0.04 });
const [config, base, adapters] = [goldenConfig, goldenBase, goldenAdapters];

let tf: TF;
let model: TrainableModel;
let batch: Microbatch;
let folder: string;
beforeAll(async () => {
  ({ tf } = await startBackend("cpu", 0));
  model = new TrainableModel(tf, config, run, baseFromPacked(base), adapters);
  batch = prepareMicrobatch(tf, config, goldenGroups);
  folder = mkdtempSync(join(tmpdir(), "frl-lora-"));
  writeFileSync(join(folder, "tokenizer.json"), "{}");
  writeFileSync(join(folder, "tokenizer_config.json"), "{}");
});
afterAll(() => {
  model.dispose();
  disposeBatch(tf, batch);
  rmSync(folder, { recursive: true, force: true });
});

/** [M] of the golden completions. */
function logprobs(weights: NamedWeights, checkpointing = false) {
  const hidden = hiddenStates(tf, config, weights, batch, checkpointing);
  const both = completionLogprobs(tf, config, weights, hidden, batch, golden.temperature, "logprobs");
  return tf.reshape(tf.slice(both, [0, 0], [-1, 1]), [-1]);
}

describe("LoRA against PEFT", () => {
  test("log-probabilities with adapters are PEFT's, without them the base's", () => {
    tf.tidy(() => {
      expect(relativeGap(logprobs(model.policy(model.views())).dataSync(), golden.logprobs)).toBeLessThan(1e-5);
      expect(relativeGap(logprobs(model.reference()).dataSync(), golden.base_logprobs)).toBeLessThan(1e-5);
    });
    expect(relativeGap(golden.logprobs, golden.base_logprobs)).toBeGreaterThan(0.1);
  });

  test.each([false, true])("gradients of every adapter are PEFT's (checkpointing %s)", (checkpointing) => {
    const loss = () => {
      const weights = tf.tensor1d(golden.logprobs.map((_, i) => Math.cos(i)));
      return tf.sum(tf.mul(logprobs(model.policy(model.views()), checkpointing), weights)).asScalar();
    };
    const { value, grads } = tf.variableGrads(loss, [model.flat]);
    expect(relativeGap(value.dataSync(), [golden.loss])).toBeLessThan(1e-5);
    const gradient = Object.values(grads)[0]!.dataSync();
    expect(model.layout.map(({ name }) => name)).toEqual(Object.keys(golden.grads));
    for (const { name, offset, size } of model.layout)
      expect(relativeGap(gradient.subarray(offset, offset + size), golden.grads[name]!), name).toBeLessThan(1e-5);
    tf.dispose([value, ...Object.values(grads)]);
  });

  test("a PEFT-written adapter loads, to the numbers PEFT computed with it", () => {
    const peft = join(folder, "peft");
    mkdirSync(peft, { recursive: true });
    writeFileSync(join(peft, "adapter_config.json"), JSON.stringify(golden.peft.adapter_config));
    writeFileSync(join(peft, "adapter_model.safetensors"), Buffer.from(golden.peft.adapter_model_base64, "base64"));
    const loaded = loadAdapter(peft, loraLayout(config, run.lora), run.lora);
    expect(relativeGap(loaded, adapters)).toBeLessThan(1e-7);
  });
});

describe("adapter folders", () => {
  const layout = loraLayout(config, run.lora);
  const save = (name: string): string => {
    const target = join(folder, name);
    saveAdapterFolder(target, folder, layout, adapters, run.lora);
    return target;
  };

  test("names and shapes are those PEFT saves; every setting it shares with PEFT has PEFT's value", () => {
    const target = save("ours");
    const stored = readSafetensors(join(target, "adapter_model.safetensors"));
    expect(Object.fromEntries([...stored].map(([name, { shape }]) => [name, shape]))).toEqual(golden.peft.shapes);
    const written = JSON.parse(readFileSync(join(target, "adapter_config.json"), "utf8")) as Record<string, unknown>;
    const { base_model_name_or_path, target_modules, ...rest } = written;
    expect(golden.peft.adapter_config).toMatchObject(rest);
    expect((target_modules as string[]).toSorted()).toEqual(golden.peft.adapter_config["target_modules"]);
    expect(base_model_name_or_path).toBe(folder);
  });

  test("what was saved loads bit for bit", () => {
    expect([...loadAdapter(save("ours"), layout, run.lora)]).toEqual([...adapters]);
  });

  test("lora_dropout may differ: it is no part of what an adapter computes", () => {
    expect([...loadAdapter(save("ours"), layout, { ...run.lora, lora_dropout: 0.3 })]).toEqual([...adapters]);
  });

  test.each([
    [{ r: 4 }, /lora\.r: expected 4, found 2/],
    [{ lora_alpha: 8 }, /lora\.lora_alpha: expected 8, found 4/],
    [{ target_modules: ["q_proj"] }, /lora\.target_modules: expected q_proj, found down_proj, /],
  ])("a run with %j refuses it", (difference, message) => {
    const target = save("ours");
    const load = () => loadAdapter(target, layout, { ...run.lora, ...difference });
    expect(load).toThrow(UserError);
    expect(load).toThrow(message);
  });

  test.each([
    { use_dora: true },
    { use_rslora: true },
    { bias: "all" },
    { rank_pattern: { q_proj: 4 } },
    { modules_to_save: ["lm_head"] },
    { peft_type: "IA3" },
  ])("an adapter with %j is refused by name", (setting) => {
    const target = save("other");
    writeFileSync(join(target, "adapter_config.json"), JSON.stringify({ ...golden.peft.adapter_config, ...setting }));
    expect(() => loadAdapter(target, layout, run.lora)).toThrow(
      new RegExp(`plain LoRA.*[\\s\\S]*${Object.keys(setting)[0]}`),
    );
  });

  test("missing, mis-shaped and surplus tensors are named", () => {
    const target = save("damaged");
    const tensors = layout.map(({ name, shape, size }) => ({
      name: `base_model.model.${name}`,
      shape,
      data: new Float32Array(size),
    }));
    const write = (list: typeof tensors): void => writeSafetensors(join(target, "adapter_model.safetensors"), list);
    const load = () => loadAdapter(target, layout, run.lora);
    write(tensors.slice(1));
    expect(load).toThrow(/layers\.0\.self_attn\.q_proj\.lora_A\.weight: expected \[2, 16\], found no such tensor/);
    write([{ ...tensors[0]!, shape: [16, 2] }, ...tensors.slice(1)]);
    expect(load).toThrow(/q_proj\.lora_A\.weight: expected \[2, 16\], found \[16, 2\]/);
    write([...tensors, { name: "base_model.model.extra", shape: [1], data: new Float32Array(1) }]);
    expect(load).toThrow(/expected 28 tensors, found 1 more \(base_model\.model\.extra/);
    rmSync(join(target, "adapter_config.json"));
    expect(load).toThrow(/adapter_config\.json: expected PEFT's adapter config, found none/);
  });
});

describe("new adapters and dropout", () => {
  const start = (overrides: Parameters<typeof tinyRun>[0] = {}) =>
    tinyLearner(tf, tinyRun({ ...overrides, lora: { enabled: true, r: 2, ...overrides.lora } }));

  test("new adapters change nothing: A is not 0, B is", async () => {
    const { model, dispose } = start();
    const vector = await model.flat.data();
    for (const { name, offset, size } of model.layout) {
      const values = [...vector.subarray(offset, offset + size)];
      expect(
        values.some((value) => value !== 0),
        name,
      ).toBe(name.endsWith("lora_A.weight"));
    }
    dispose();
  });

  test("dropout never acts in an evaluation", async () => {
    const [dropped, plain] = [start({ lora: { lora_dropout: 0.5 } }), start()];
    const vector = Float32Array.from(plain.model.flat.dataSync(), (x, i) => x + 0.2 * Math.sin(i));
    const sequences = [{ promptIds: Int32Array.of(1, 2), completions: [Int32Array.of(3, 4, 5)] }];
    const [found, expected] = [dropped, plain].map(({ updater }) =>
      publishedLogprobs(updater.policy.training, vector, sequences),
    );
    expect([...(await found!)[0]!]).toEqual([...(await expected!)[0]!]);
    dropped.dispose();
    plain.dispose();
  });

  test("dropout acts in the gradient forward, as a function of seed and step", async () => {
    const afterOneStep = async (lora_dropout: number): Promise<number[]> => {
      const { model, updater, dispose } = start({ lora: { lora_dropout } });
      await updater.update(tinyBatch(), 0);
      const weights = [...(await model.flat.data())];
      dispose();
      return weights;
    };
    const [dropped, again, plain] = [await afterOneStep(0.5), await afterOneStep(0.5), await afterOneStep(0)];
    expect(relativeGap(dropped, plain)).toBeGreaterThan(1e-3);
    expect(again).toEqual(dropped); // so that a resumed run drops the same
  });
});
