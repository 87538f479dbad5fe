/**
 * Real language models on real questions: they give transformers' tokens and log-probabilities on
 * GSM8K. test/golden/ holds transformers' values; scripts of test/reference/ make the models'
 * folders, which are too large to be part of the repository.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { OrtEngine } from "../../src/engine/engine.js";
import { generateAll, startEngine } from "../../src/engine/local.js";
import { readModel } from "../../src/model/read-model.js";
import { root } from "../support/run.js";
import { smollm2Place } from "../support/smollm2.js";

const data = join(root, "../shared/gsm8k/test.jsonl");
const models = [
  { name: "smollm2", folder: smollm2Place, maker: "smollm2_model.py" },
  {
    name: "qwen2.5-coder-0.5b",
    folder: process.env["FINELLAMA_QWEN"] ?? join(root, "models/qwen2.5-coder-0.5b"),
    maker: "qwen_coder_model.py",
  },
  {
    // what a run has trained, beside PEFT: real_model_reference.py writes its reference.json
    name: "a trained adapter",
    folder: process.env["FINELLAMA_ADAPTER"] ?? "(FINELLAMA_ADAPTER is not set)",
    maker: "real_model_reference.py",
    weights: "adapter_model.safetensors",
  },
].map((model) => {
  const weights = model.weights ?? "model.safetensors";
  const golden =
    model.weights === undefined ? join(root, `test/golden/${model.name}.json`) : join(model.folder, "reference.json");
  const missing = [join(model.folder, weights), golden].some((file) => !existsSync(file))
    ? `no model in ${model.folder}; test/reference/${model.maker} makes it`
    : !existsSync(data)
      ? `no ${data}`
      : undefined;
  return { ...model, weights, golden, missing, reason: missing === undefined ? "" : ` (skipped: ${missing})` };
});

interface Golden {
  model_sha256: string;
  data_sha256: string;
  answers: { prompt_sha256: string; completion_ids: number[]; logprobs: number[] }[];
}
const sha256 = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");

const graphs = [
  { graph: "", fused: false },
  { graph: ", by grouped-segment.ts", fused: true },
];
const cases = models.flatMap((model) =>
  graphs.map((graph) => ({ ...model, ...graph, title: `${model.name}${graph.graph}${model.reason}` })),
);

describe.each(cases)("$title", ({ golden: file, folder, fused, missing, weights }) => {
  const golden = (missing === undefined ? JSON.parse(readFileSync(file, "utf8")) : {}) as Golden;
  let engine: OrtEngine;
  let prompts: Int32Array[];

  beforeAll(async () => {
    if (missing !== undefined) return;
    expect(sha256(readFileSync(join(folder, weights)))).toBe(golden.model_sha256);
    expect(sha256(readFileSync(data))).toBe(golden.data_sha256);
    const model = readModel(folder);
    engine = await startEngine(model, 0, { fused });
    const lines = readFileSync(data, "utf8").split("\n").slice(0, golden.answers.length);
    prompts = lines.map((line) => {
      const { question } = JSON.parse(line) as { question: string };
      return model.tokenizer.chatPrompt([{ role: "user", content: question }]);
    });
  }, 120_000);
  afterAll(() => engine?.dispose());

  const ask = (forced: boolean) =>
    generateAll(
      engine,
      golden.answers.map(({ completion_ids: ids }, i) => ({
        requestId: String(i),
        promptIds: prompts[i]!,
        groupSize: 1,
        seed: 0n,
        sampling: { temperature: forced ? 1 : 0, maxNewTokens: ids.length, stopIds: [] },
        ...(forced && { forced: [Int32Array.from(ids)] }),
      })),
    );

  it.skipIf(missing !== undefined)("the chat prompts of 16 questions are transformers'", () => {
    expect(golden.answers).toHaveLength(16);
    expect(prompts.map((ids) => sha256(JSON.stringify([...ids])))).toEqual(golden.answers.map((a) => a.prompt_sha256));
  });

  it.skipIf(missing !== undefined)(
    "so are 64 greedy tokens of each",
    async () => {
      const groups = await ask(false);
      expect(golden.answers.every((answer) => answer.completion_ids.length === 64)).toBe(true);
      expect(groups.map((group) => [...group.completions[0]!.ids])).toEqual(
        golden.answers.map((a) => a.completion_ids),
      );
    },
    120_000,
  );

  it.skipIf(missing !== undefined)(
    "and their log-probabilities, to 1e-4 nats",
    async () => {
      const groups = await ask(true);
      const gaps = groups.flatMap((group, i) =>
        Array.from(group.completions[0]!.logprobs, (value, t) => Math.abs(value - golden.answers[i]!.logprobs[t]!)),
      );
      expect(gaps).toHaveLength(16 * 64);
      expect(Math.max(...gaps)).toBeLessThanOrEqual(1e-4);
    },
    120_000,
  );
});
