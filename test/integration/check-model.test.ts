/** `check-model` on the starter model, as a user runs it. */
import { readModelConfig } from "../../src/model/config.js";
import { loraLayout, saveAdapterFolder } from "../../src/model/lora.js";
import { tinyWeights } from "../support/tiny.js";
import { afterAll, describe, expect, test } from "vitest";
import { cleanUp, reason, run, starter, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);

describe.skipIf(unrunnable)(`check-model${reason}`, () => {
  test("prints what the model is, that actor and learner agree, and eight answers", async () => {
    const { code, stdout, stderr } = await run("cli", ["check-model", starter, "--threads", "1"]);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/parameters {2}1,050,752\ndtype {7}F32 on disk.*\nweights {5}sha256 [0-9a-f]{64}\n/);
    const [, gap] = /largest difference (\S+) nats/.exec(stdout)!;
    expect(Number(gap!.replace("−", "-"))).toBeLessThan(1e-4);
    expect(stdout.match(/^\d\. .+\?$/gm)).toHaveLength(8);
    expect(stdout.match(/^ {3}\[(correct|wrong|unparsed|truncated); \d+ tokens\]$/gm)).toHaveLength(8);
  });

  test("compares both sides on an adapter, too", async () => {
    const lora = { r: 2, lora_alpha: 1, lora_dropout: 0, target_modules: ["q_proj", "down_proj"] };
    const layout = loraLayout(readModelConfig(starter), lora);
    const adapter = temporary();
    saveAdapterFolder(adapter, starter, layout, tinyWeights(layout), lora);
    const { code, stdout, stderr } = await run("cli", ["check-model", adapter, "--threads", "1"]);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/parameters {2}1,050,752, and 7,168 of the LoRA adapter\n/);
    const [, gap] = /largest difference (\S+) nats/.exec(stdout)!;
    expect(Number(gap!.replace("−", "-"))).toBeLessThan(1e-4);
  });

  test("a folder without a model is refused in one line", async () => {
    const { code, stderr } = await run("cli", ["check-model", temporary()]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: .*expected a Hugging Face model config/);
  });
});
