/**
 * `export`, and adapters in actor and learner, against PEFT (test/reference/lora_reference.py) on a
 * tiny model.
 */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeEach, describe, expect, test, vi } from "vitest";
import { cli } from "../../src/cli.js";
import type { OrtEngine } from "../../src/engine/engine.js";
import { generateAll, startEngine } from "../../src/engine/local.js";
import { exportModel, type ExportOptions } from "../../src/engine/export-model.js";
import { scoreSequences } from "../../src/learner/score.js";
import { UserError } from "../../src/errors.js";
import { saveModelFolder } from "../../src/model/folder.js";
import { weightLayout } from "../../src/model/layout.js";
import { loadAdapter, loraLayout } from "../../src/model/lora.js";
import { readModel } from "../../src/model/read-model.js";
import { loadPacked } from "../../src/model/model-weights.js";
import { readSafetensors, readTensor } from "../../src/model/safetensors/read.js";
import { splitIntoShards } from "../../src/model/safetensors/shards.js";
import { golden, goldenAdapters, goldenBase, goldenConfig, goldenGroups } from "../support/lora-golden.js";
import { relativeGap } from "../support/tiny.js";

const root = mkdtempSync(join(tmpdir(), "frl-export-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let printed: string[];
let told = "";
let count = 0;
beforeEach(() => {
  printed = [];
  told = "";
  vi.spyOn(console, "log").mockImplementation((line: string) => void printed.push(line));
  vi.spyOn(process.stderr, "write").mockImplementation((text) => ((told += String(text)), true));
  return () => vi.restoreAllMocks();
});

const writeJson = (file: string, value: unknown): void => writeFileSync(file, JSON.stringify(value));
const readJson = (...path: string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(join(...path), "utf8")) as Record<string, unknown>;

/** A whole model: the golden base with a vocabulary of three words. */
function baseFolder(name = "base"): string {
  const folder = join(root, name);
  if (existsSync(folder)) return folder;
  mkdirSync(folder, { recursive: true });
  writeJson(join(folder, "config.json"), golden.config);
  writeJson(join(folder, "tokenizer.json"), {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab: { one: 0, two: 1, "</s>": 2 }, merges: [], unk_token: "one" },
  });
  writeJson(join(folder, "tokenizer_config.json"), { eos_token: "</s>" });
  writeJson(join(folder, "generation_config.json"), { temperature: 0.5 });
  writeFileSync(join(folder, "chat_template.jinja"), "{{ messages[0].content }}");
  saveModelFolder(folder, folder, goldenConfig, goldenBase);
  return folder;
}

/** The folder PEFT's save_pretrained wrote: two files, no tokenizer. */
function peftFolder(base = baseFolder()): string {
  const folder = join(root, `peft-${basename(base)}`);
  mkdirSync(folder, { recursive: true });
  writeJson(join(folder, "adapter_config.json"), { ...golden.peft.adapter_config, base_model_name_or_path: base });
  writeFileSync(join(folder, "adapter_model.safetensors"), Buffer.from(golden.peft.adapter_model_base64, "base64"));
  return folder;
}

async function exported(model: string, options: Partial<ExportOptions> = {}): Promise<string> {
  const out = options.out ?? join(root, `out-${count++}`);
  const unseen = { total: () => {}, add: () => {} };
  await exportModel(model, { merge: false, maxShardSize: 5e9, force: false, threads: 1, ...options, out }, unseen);
  return out;
}

const sequences = goldenGroups.flatMap(({ promptIds, completions }) =>
  completions.map((completion) => ({ promptIds, completion })),
);

async function actorLogprobs(folder: string): Promise<number[]> {
  const engine = await startEngine(readModel(folder), 1);
  const logprobs = await engineLogprobs(engine);
  await engine.dispose();
  return logprobs;
}

async function engineLogprobs(engine: OrtEngine): Promise<number[]> {
  const requests = sequences.map(({ promptIds, completion }, i) => ({
    requestId: String(i),
    promptIds,
    groupSize: 1,
    seed: 0n,
    sampling: { temperature: golden.temperature, maxNewTokens: completion.length, stopIds: [] },
    forced: [completion],
  }));
  const groups = await generateAll(engine, requests);
  return groups.flatMap(({ completions }) => [...completions[0]!.logprobs]);
}

const learnerLogprobs = async (folder: string): Promise<number[]> => {
  const options = { temperature: golden.temperature, backend: "cpu", threads: 0 } as const;
  return (await scoreSequences(readModel(folder), sequences, options)).flatMap((values) => [...values]);
};

const sidesOf: [string, (folder: string) => Promise<number[]>][] = [
  ["the actor, which merges", actorLogprobs],
  ["the learner, which does not", learnerLogprobs],
];

describe("an adapter that PEFT wrote gives PEFT's log-probabilities", () => {
  test.each(sidesOf)("by %s", async (_, logprobs) => {
    expect(relativeGap(await logprobs(peftFolder()), golden.logprobs)).toBeLessThan(1e-5);
    expect(relativeGap(await logprobs(baseFolder()), golden.base_logprobs)).toBeLessThan(1e-5);
  });
});

test("an engine merges one adapter after another into the base on disk, and none into another base", async () => {
  const base = baseFolder("changing");
  const files = readModel(peftFolder(base));
  const engine = await startEngine(files, 1);
  const [{ sha256 }, first] = [engine.version, await engineLogprobs(engine)];
  await engine.load(new Float32Array(files.published().length), 1);
  expect(await engineLogprobs(engine)).toEqual(await actorLogprobs(base));
  expect(await engine.load(files.published(), 2)).toEqual({ iteration: 2, sha256 });
  expect(await engineLogprobs(engine)).toEqual(first);

  const changed = goldenBase.map((value) => 2 * value);
  saveModelFolder(base, base, goldenConfig, changed);
  await expect(engine.load(files.published(), 3)).rejects.toThrow(
    /q_proj\.weight: expected the values that were there at the start, found others/,
  );
  // what is half merged answers nothing
  expect(() => engine.version).toThrow(/no weights yet/);
  await engine.dispose();
});

describe("a merged adapter", () => {
  test("holds the weights of PEFT's merge_and_unload, and the base's where there is no adapter", async () => {
    const stored = readSafetensors(await exported(peftFolder(), { merge: true, dtype: "fp32" }));
    const names = weightLayout(goldenConfig).map(({ name }) => name);
    expect([...stored.keys()]).toEqual(names);
    const base = readSafetensors(baseFolder());
    expect(Object.keys(golden.merged_base64)).toHaveLength(14);
    for (const name of names) {
      const found = readTensor(stored.get(name)!);
      const expected = golden.merged_base64[name];
      if (expected === undefined) expect(found, name).toEqual(readTensor(base.get(name)!));
      else expect(relativeGap(found, float32s(expected)), name).toBeLessThan(1e-6);
    }
  });

  test.each(sidesOf)("gives PEFT's log-probabilities by %s", async (_, logprobs) => {
    const out = await exported(peftFolder(), { merge: true, dtype: "fp32" });
    expect(relativeGap(await logprobs(out), golden.logprobs)).toBeLessThan(1e-5);
  });

  test.each([
    ["bf16", "BF16", "bfloat16", 2 ** -8],
    ["fp16", "F16", "float16", 2 ** -11],
  ] as const)("in %s is rounded once, and config.json says so", async (dtype, stored, torch, unit) => {
    const out = await exported(peftFolder(), { merge: true, dtype });
    expect(readJson(out, "config.json")).toEqual({
      ...readJson(baseFolder(), "config.json"),
      dtype: torch,
      torch_dtype: torch,
    });
    for (const tensor of readSafetensors(out).values()) {
      expect(tensor.dtype).toBe(stored);
      const expected = golden.merged_base64[tensor.name];
      if (expected === undefined) continue;
      const exact = float32s(expected);
      // half a unit in the last place of each value; the last term is half of float16's smallest
      readTensor(tensor).forEach((value, i) =>
        expect(Math.abs(value - exact[i]!)).toBeLessThanOrEqual(unit * Math.abs(exact[i]!) * (1 + 1e-4) + 2 ** -25),
      );
    }
  });

  test("comes with the base's tokenizer, chat template and generation config where the adapter has none", async () => {
    const out = await exported(peftFolder(), { merge: true });
    for (const name of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"])
      expect(readFileSync(join(out, name)), name).toEqual(readFileSync(join(baseFolder(), name)));
    expect(readdirSync(out)).toHaveLength(6);
  });

  test("is what a whole model is already", async () => {
    const [merged, plain] = [await exported(baseFolder(), { merge: true }), await exported(baseFolder())];
    expect(readdirSync(merged)).toEqual(readdirSync(plain));
    const weights = (folder: string) => readFileSync(join(folder, "model.safetensors"));
    expect(weights(merged)).toEqual(weights(plain));
  });
});

describe("shards", () => {
  test("are huggingface_hub's: in order, and what is larger than the limit alone in front", () => {
    const split = (sizes: number[]) =>
      splitIntoShards(
        sizes.map((size) => ({ size })),
        2,
        20,
      ).map((s) => s.map(({ size }) => size));
    expect(split([6, 6, 2, 6, 2, 2])).toEqual([[6], [6, 2], [6, 2, 2]]); // the example of its docstring
    expect(split([1, 11, 2])).toEqual([[11], [1, 2]]);
    expect(split([10])).toEqual([[10]]);
  });

  test("are whole together: index, sizes and values", async () => {
    const out = await exported(baseFolder(), { dtype: "fp32", maxShardSize: 4000 });
    const files = readdirSync(out).filter((name) => name.endsWith(".safetensors"));
    expect(files.length).toBeGreaterThan(2);
    files.forEach((name, i) => expect(name).toBe(`model-0000${i + 1}-of-0000${files.length}.safetensors`));
    const { metadata, weight_map: map } = readJson(out, "model.safetensors.index.json") as {
      metadata: unknown;
      weight_map: Record<string, string>;
    };
    expect(metadata).toEqual({ total_parameters: goldenBase.length, total_size: 4 * goldenBase.length });
    for (const file of files) {
      const tensors = [...readSafetensors(join(out, file)).values()];
      expect(tensors.reduce((sum, { size }) => sum + 4 * size, 0)).toBeLessThanOrEqual(4000);
      for (const { name } of tensors) expect(map[name]).toBe(file);
    }
    expect(loadPacked(out, goldenConfig)).toEqual(goldenBase);
  });
});

describe("an adapter without --merge", () => {
  test("stays PEFT's, in float32, with its settings and the base's tokenizer", async () => {
    const out = await exported(peftFolder());
    const lora = { ...golden.lora, lora_dropout: 0 };
    expect(relativeGap(loadAdapter(out, loraLayout(goldenConfig, lora), lora), goldenAdapters)).toBeLessThan(1e-7);
    expect(readJson(out, "adapter_config.json")).toEqual(readJson(peftFolder(), "adapter_config.json"));
    expect(existsSync(join(out, "tokenizer.json"))).toBe(true);
    expect(existsSync(join(out, "config.json"))).toBe(false);
    expect(told).toContain(`names its base by a path of this machine, ${baseFolder()}`);
    expect(relativeGap(await actorLogprobs(out), golden.logprobs)).toBeLessThan(1e-5);
  });

  test("names a base from the hub's cache by its id and commit", async () => {
    const commit = "0123456789abcdef0123456789abcdef01234567";
    const base = baseFolder(join("models--owner--a-model", "snapshots", commit));
    const out = await exported(peftFolder(base));
    expect(readJson(out, "adapter_config.json")).toEqual({
      ...golden.peft.adapter_config,
      base_model_name_or_path: "owner/a-model",
      revision: commit,
    });
    expect(told).toBe("");
  });

  test("may be stored in bf16", async () => {
    const out = await exported(peftFolder(), { dtype: "bf16" });
    const dtypes = [...readSafetensors(join(out, "adapter_model.safetensors")).values()].map(({ dtype }) => dtype);
    expect(new Set(dtypes)).toEqual(new Set(["BF16"]));
  });
});

describe("what is written", () => {
  test("is printed as sha256sum reads it", async () => {
    const out = join(root, "printed");
    expect(await cli(["export", baseFolder(), "--out", out, "--dtype", "fp32"])).toBe(0);
    const sums = readdirSync(out).map(
      (name) =>
        `${createHash("sha256")
          .update(readFileSync(join(out, name)))
          .digest("hex")}  ${name}`,
    );
    expect(printed).toEqual(sums.toSorted((a, b) => (a.slice(66) < b.slice(66) ? -1 : 1)));
    expect(sums).toHaveLength(6);
  });

  test("is what a model is, and not what only training needs", async () => {
    const checkpoint = join(root, "checkpoint");
    mkdirSync(checkpoint);
    saveModelFolder(checkpoint, baseFolder(), goldenConfig, goldenBase);
    for (const name of ["value_head.safetensors", "training_state.safetensors", "checksums.json"])
      writeFileSync(join(checkpoint, name), "");
    const out = await exported(checkpoint, { dtype: "fp32" });
    expect(readdirSync(out)).toEqual(readdirSync(await exported(baseFolder())));
    expect(loadPacked(out, goldenConfig)).toEqual(goldenBase);
    expect(told).toContain("value_head.safetensors, the critic of PPO, is left out");
  });

  test("is nothing when a value does not fit: the error names the tensor, and no folder stays", async () => {
    const large = baseFolder("large");
    const layout = weightLayout(goldenConfig);
    const [first] = layout;
    const save = (value: number): void => {
      const packed = goldenBase.with(layout.find(({ name }) => name === "model.norm.weight")!.offset, value);
      saveModelFolder(large, large, goldenConfig, packed);
    };
    save(7e4);
    const out = join(root, "nothing");
    await expect(exported(large, { out, dtype: "fp16" })).rejects.toThrow(/^model\.norm\.weight: .*70000.*bf16/);
    save(NaN);
    await expect(exported(large, { out, dtype: "bf16" })).rejects.toThrow(
      /^model\.norm\.weight: expected numbers, found NaN/,
    );
    expect(first!.name).not.toBe("model.norm.weight"); // so that something had been written
    expect(readdirSync(root).filter((name) => name.startsWith("nothing"))).toEqual([]);
  });
});

describe("a folder that is there", () => {
  test("is used when it is empty, refused when it is not, and replaced with --force", async () => {
    const out = join(root, "there");
    mkdirSync(out);
    await exported(baseFolder(), { out });
    writeFileSync(join(out, "stray"), "");
    await expect(exported(baseFolder(), { out })).rejects.toThrow(/expected a new or an empty folder.*--force/);
    expect(existsSync(join(out, "stray"))).toBe(true);
    await exported(baseFolder(), { out, force: true, dtype: "fp32" });
    expect(existsSync(join(out, "stray"))).toBe(false);
    expect(loadPacked(out, goldenConfig)).toEqual(goldenBase);
    expect(readdirSync(root).filter((name) => name.startsWith("there"))).toEqual(["there"]);
  });

  test("is never replaced when it is no model's, or holds the model itself", async () => {
    const precious = join(root, "precious");
    mkdirSync(precious);
    writeFileSync(join(precious, "thesis.tex"), "");
    for (const [out, message] of [
      [precious, /found one of another kind/],
      [baseFolder(), /expected another folder than the model's own/],
      [root, /expected another folder than the model's own/],
    ] as const) {
      const attempt = exported(peftFolder(), { out, merge: true, force: true });
      await expect(attempt).rejects.toThrow(message);
      await expect(attempt).rejects.toThrow(UserError);
    }
    expect(readdirSync(precious)).toEqual(["thesis.tex"]);
    expect(statSync(join(baseFolder(), "model.safetensors")).size).toBeGreaterThan(4 * goldenBase.length);
  });
});

function float32s(base64: string): Float32Array {
  return new Float32Array(Uint8Array.from(Buffer.from(base64, "base64")).buffer);
}
