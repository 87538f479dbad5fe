/** A template that ends answers with a token that stops none is told once, wherever it is used. */
import { spawn } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { afterAll, describe, expect, it } from "vitest";
import { cleanUp, reason, root, run, starter, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);

describe.skipIf(unrunnable)(`the end of a turn${reason}`, { timeout: 120_000 }, () => {
  const here = temporary();
  const model = join(here, "model");
  cpSync(starter, model, { recursive: true });
  writeFileSync(join(model, "generation_config.json"), JSON.stringify({ eos_token_id: 509 }));
  const { chat_template } = JSON.parse(readFileSync(join(starter, "tokenizer_config.json"), "utf8")) as Record<
    string,
    string
  >;
  writeFileSync(join(model, "tokenizer_config.json"), JSON.stringify({ chat_template }));
  const told = (output: string): number =>
    output.split(/note: .*<\|im_end\|> \(511\), which is no stop token.*Add 511 to eos_token_id/).length - 1;
  const engine = ["--threads", "1", "--max-new-tokens", "4"];

  it.each([
    ["infer", ["infer", model, "--prompt", "1+1?", ...engine], 1],
    ["infer with a raw prompt", ["infer", model, "--prompt", "1+1?", "--raw", ...engine], 0],
    ["infer with the token as a stop", ["infer", starter, "--prompt", "1+1?", ...engine], 0],
    [
      "eval",
      ["eval", "--model", model, "--data", "starter", "--limit", "2", "--out", join(here, "eval"), ...engine],
      1,
    ],
    [
      "sft",
      [
        "sft",
        "--model",
        model,
        "--data",
        "starter",
        "--out",
        join(here, "sft"),
        "--max-steps",
        "1",
        "--batch-size",
        "1",
      ],
      1,
    ],
  ] as const)("%s", async (_, args, times) => {
    const { code, stdout, stderr } = await run("cli", args);
    expect(code, stderr).toBe(0);
    expect(told(stdout + stderr)).toBe(times);
  });

  it("launch", async () => {
    const options =
      "--max-steps 1 --serial --generation_batch_size=4 --num_generations=4 --max_completion_length=4 --eval.num_problems=1";
    const { code, stdout, stderr } = await run("launch", [
      ...`--run-dir ${join(here, "run")} ${options}`.split(" "),
      `--model.path=${model}`,
    ]);
    expect(code, stderr).toBe(0);
    expect(told(stdout)).toBe(1);
  });

  it("serve", async () => {
    const server = spawn(process.execPath, ["dist/cli.js", "serve", model, "--port", "0", "--threads", "1"], {
      cwd: root,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const errors = text(server.stderr);
    createInterface(server.stdout).once("line", () => server.kill("SIGTERM"));
    expect(told(await errors)).toBe(1);
  });
});
