/** Supervised fine-tuning that cannot go well ends with the reason, as soon as it shows. */
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { readModelConfig } from "../../src/model/config.js";
import { loadAdapter, loraLayout, readAdapterConfig } from "../../src/model/lora.js";
import { loadPacked } from "../../src/model/model-weights.js";
import { listCheckpoints } from "../../src/run/checkpoint.js";
import { starterProblem } from "../../src/tasks/starter.js";
import { type Ended, cleanUp, reason, run, starter, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);

describe.skipIf(unrunnable)(`sft${reason}`, { timeout: 120_000 }, () => {
  const root = temporary();
  const data = join(root, "data.jsonl");
  const lines = Array.from({ length: 6 }, (_, i) => JSON.stringify(starterProblem("train", i)));
  writeFileSync(data, lines.join("\n"));
  const sft = (out: string, ...args: string[]): Promise<Ended> =>
    run("cli", ["sft", "--model", starter, "--data", data, "--out", join(root, out), "--batch-size", "2", ...args]);

  it("stops where it diverges, and names the last weights whose loss was finite", async () => {
    // a rate of 0, then one of 2e28
    const rates = ["--learning-rate", "1e30", "--warmup-steps", "50"];
    const { code, stderr, stdout } = await sft("diverged", "--max-steps", "50", "--save-steps", "1", ...rates);
    expect(code, stdout + stderr).toBe(1);
    expect(stderr).toMatch(
      /not finite \(loss NaN, norm NaN\) 5 times in a row.*finite until step 2; the last good weights are in (\S+)step-000001/,
    );
    expect(stderr).not.toMatch(/^ {4}at /m);
    const out = join(root, "diverged");
    // none was written in the bad stretch, and no trained model
    expect(listCheckpoints(out)).toEqual([1, 2]);
    expect(existsSync(join(out, "model.safetensors"))).toBe(false);
    const shape = readModelConfig(starter);
    expect(loadPacked(join(out, "checkpoints/step-000001"), shape)).toEqual(loadPacked(starter, shape));
  });

  it("fails when the last step was skipped, however few there were in a row", async () => {
    const rates = ["--learning-rate", "1e30", "--warmup-steps", "2"];
    const { code, stderr } = await sft("short", "--max-steps", "3", ...rates);
    expect(stderr).toMatch(/not finite at the last step.*finite until step 2; no checkpoint is older/);
    expect(code).toBe(1);
    expect(existsSync(join(root, "short"))).toBe(false);
  });

  it("teaches the template's end of turn, not the first of several stop tokens", async () => {
    const model = join(root, "turn-model");
    cpSync(starter, model, { recursive: true });
    const edit = (name: string, change: (json: Record<string, unknown>) => object) => {
      const file = join(model, name);
      writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>)));
    };
    // of the stop tokens 1, 509 and 511 (the model's own so far) the template ends turns with 509
    edit("generation_config.json", (json) => ({ ...json, eos_token_id: [1, 509, 511] }));
    edit("tokenizer_config.json", (json) => ({
      ...json,
      chat_template: String(json["chat_template"]).replaceAll("<|im_end|>", "<|endoftext|>"),
    }));
    const { code, stderr } = await sft("turn", "--model", model, "--max-steps", "30", "--learning-rate", "2e-3");
    expect(code, stderr).toBe(0);
    const { question } = starterProblem("train", 0);
    const asked = await run("cli", ["infer", join(root, "turn"), "--prompt", question, "--greedy", "--json"]);
    const { completion_ids: ids } = JSON.parse(asked.stdout) as { completion_ids: number[] };
    expect(ids.at(-1)).toBe(509);
  });

  it("trains an adapter in PEFT's form on a frozen model, to the same bits over a stop as without one", async () => {
    const args = "--lora --lora-r 4 --lora-alpha 8 --learning-rate 1e-2 --warmup-steps 0 --save-steps 2".split(" ");
    const whole = await sft("adapter", ...args, "--max-steps", "4");
    expect(whole.stdout + whole.stderr).toMatch(/trained adapter \(adapter_config\.json, adapter_model\.safetensors/);
    const out = join(root, "adapter");
    const shape = readModelConfig(starter);
    const { lora, base } = readAdapterConfig(out);
    expect(lora).toMatchObject({ r: 4, lora_alpha: 8 });
    expect(base).toBe(starter);
    const layout = loraLayout(shape, lora);
    const trained = loadAdapter(out, layout, lora);
    // B begins at 0 and A is what the seed says: both have moved
    const first = loadAdapter(join(out, "checkpoints/step-000002"), layout, lora);
    for (const { name, offset, size } of layout)
      expect(trained.subarray(offset, offset + size), name).not.toEqual(first.subarray(offset, offset + size));

    // as if it had been killed after its first checkpoint
    const cut = join(root, "cut");
    cpSync(out, cut, { recursive: true });
    rmSync(join(cut, "checkpoints/step-000004"), { recursive: true });
    rmSync(join(cut, "adapter_model.safetensors"));
    for (const [changed, said] of [
      [args.slice(1), /--lora: expected true, .*found none/],
      [[...args, "--lora-r", "8"], /--lora-r: expected 4, .*found 8/],
      [[...args, "--from-scratch"], /--lora: expected a trained model under the adapter, found --from-scratch/],
    ] as const) {
      const refused = await sft("cut", ...changed, "--max-steps", "4", "--resume");
      expect(refused.stderr).toMatch(said);
      expect(refused.code).toBe(1);
    }
    const resumed = await sft("cut", ...args, "--max-steps", "4", "--resume");
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(loadAdapter(cut, layout, lora)).toEqual(trained);

    const { stdout } = await run("cli", ["infer", "--model", out, "--prompt", "1 + 2?", "--max-new-tokens", "4"]);
    expect(stdout).not.toBe("");
  });

  it("finds an example that is too long before the first step", async () => {
    const long = { question: "1 + 2? ".repeat(2000), answer: "#### 3" };
    const file = join(root, "long.jsonl");
    writeFileSync(file, [...lines, JSON.stringify(long)].join("\n"));
    const { code, stderr, stdout } = await sft("long", "--data", file, "--max-steps", "1");
    expect(stderr).toMatch(/long\.jsonl: example 7 has \d+ tokens, the model's context is \d+/);
    expect(stdout).toBe("");
    expect(code).toBe(1);
  });
});
