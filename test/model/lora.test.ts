/** adapter_config.json: what is honoured, what is harmless, and what is refused by name. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { UserError } from "../../src/errors.js";
import { adapterTensors, loadAdapter, loraLayout, readAdapterConfig } from "../../src/model/lora.js";
import { layoutSize } from "../../src/model/layout.js";
import { writeSafetensors } from "../../src/model/safetensors/write.js";
import { golden, goldenConfig } from "../support/lora-golden.js";

const folder = mkdtempSync(join(tmpdir(), "frl-adapter-config-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** What PEFT wrote, with changes. */
function configured(changes: Record<string, unknown>): string {
  mkdirSync(folder, { recursive: true });
  const config = { ...golden.peft.adapter_config, ...changes };
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(config));
  return folder;
}

describe("settings", () => {
  test.each([
    { init_lora_weights: true },
    { init_lora_weights: false },
    { init_lora_weights: "gaussian" },
    { init_lora_weights: "orthogonal" },
    { exclude_modules: null },
    { exclude_modules: [] },
    { modules_to_save: [] },
    { task_type: null, peft_version: "9.0.0", revision: "main", inference_mode: false },
    { megatron_core: "megatron.core", qalora_group_size: 32 },
    { some_future_setting: false, another: {}, a_third: null, a_number: 0 },
  ])("%j ask for nothing", (changes) => {
    expect(readAdapterConfig(configured(changes)).lora).toMatchObject({ r: 2, lora_alpha: 4 });
  });

  test.each([
    ...["pissa", "pissa_niter_4", "olora", "eva", "corda", "loftq", "lora_ga", "something new"].map((value) => ({
      init_lora_weights: value,
    })),
    { use_qalora: true },
    { target_parameters: ["experts.w"] },
    { alora_invocation_tokens: [1, 2] },
    { layer_replication: [[0, 1]] },
    { exclude_modules: ["q_proj"] },
    { megatron_config: { tensor: 2 } },
    { loftq_config: { loftq_bits: 4 } },
    { layers_to_transform: 3 },
    { lora_bias: true },
    { fan_in_fan_out: true },
    { some_future_setting: "on" },
  ])("%j are refused by name", (changes) => {
    const read = () => readAdapterConfig(configured(changes));
    expect(read).toThrow(UserError);
    expect(read).toThrow(new RegExp(`plain LoRA[\\s\\S]*at ${Object.keys(changes)[0]}`));
  });
});

describe("target_modules", () => {
  test("may be ends of names", () => {
    const target_modules = ["mlp.up_proj", "self_attn.q_proj", "o_proj", "q_proj"];
    expect(readAdapterConfig(configured({ target_modules })).lora.target_modules).toEqual([
      "up_proj",
      "q_proj",
      "o_proj",
    ]);
  });

  test.each([
    [["q_proj", "lm_head"], 1],
    [["embed_tokens"], 0],
    [["k_proj", "layers.0.self_attn.q_proj"], 1],
    [["mlp.q_proj"], 0],
    [["qkv_proj"], 0],
  ])("%j are refused at the one that is not an adapted module of every layer", (target_modules, i) => {
    expect(() => readAdapterConfig(configured({ target_modules }))).toThrow(
      new RegExp(`expected q_proj, .* of every layer[\\s\\S]*at target_modules\\[${i}\\]`),
    );
  });

  test.each([".*q_proj", "all-linear"])("as the text %s are refused", (target_modules) => {
    expect(() => readAdapterConfig(configured({ target_modules }))).toThrow(/expected a list of modules/);
  });
});

describe("tensors", () => {
  const { lora } = readAdapterConfig(configured({}));
  const layout = loraLayout(goldenConfig, lora);
  const packed = new Float32Array(layoutSize(layout)).fill(0.5);
  const stored = adapterTensors(layout, packed);
  const load = (tensors: typeof stored): Float32Array => {
    writeSafetensors(join(configured({}), "adapter_model.safetensors"), tensors);
    return loadAdapter(folder, layout, lora);
  };

  test.each([NaN, Infinity, -Infinity])("that hold %d are refused by name", (value) => {
    expect(load(stored)).toEqual(packed);
    const bad = stored.with(3, { ...stored[3]!, data: new Float32Array(layout[3]!.size).with(1, value) });
    expect(() => load(bad)).toThrow(`${stored[3]!.name}: expected finite numbers, found ${value}`);
  });

  test("under other names are not blamed on the base alone", () => {
    const renamed = stored.map((one) => ({ ...one, name: one.name.replace(".weight", ".default.weight") }));
    expect(() => load(renamed)).toThrow(/no such tensor\. Give the adapter's own adapter_config\.json and base model/);
  });
});
