/**
 * What a user can get wrong, through the real command line: one clear message, a non-zero exit
 * code, nothing left running.
 */
import { cpSync, existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { cleanUp, livingMembers, reason, start, starter, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);

/** A copy of the starter model, spoilt. */
function spoiltModel(spoil: (folder: string) => void): string {
  const folder = join(temporary(), "model");
  cpSync(starter, folder, { recursive: true });
  spoil(folder);
  return folder;
}

function editJson(file: string, edit: (json: Record<string, unknown>) => void): void {
  const json = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  edit(json);
  writeFileSync(file, JSON.stringify(json));
}

/** Runs a command that must fail, and returns its message. */
async function messageOf(entry: "launch" | "cli", args: readonly string[]): Promise<string> {
  const { pid, ended } = start(entry, args);
  const { code, stderr } = await ended;
  expect(code, stderr).toBe(1);
  expect(livingMembers(pid)).toEqual([]);
  expect(stderr).not.toMatch(/^\s+at /m);
  // the configuration's own remarks go to stdout; stderr holds the one message
  const [message, ...others] = stderr.split(/^error: /m).slice(1);
  expect(message, stderr).toBeDefined();
  expect(others).toEqual([]);
  return message!;
}

const small = ["--generation_batch_size=16", "--max-steps", "1", "--eval.num_problems=2"];
const launchWith = (...args: string[]) =>
  messageOf("launch", ["--algo", "grpo", "--run-dir", join(temporary(), "run"), ...small, ...args]);

describe.skipIf(unrunnable)(`bad input${reason}`, { timeout: 120_000 }, () => {
  const models: [string, (folder: string) => void, RegExp[]][] = [
    [
      "missing weights",
      (folder) => rmSync(join(folder, "model.safetensors")),
      [/model\.safetensors/, /expected/, /found/],
    ],
    [
      "truncated weights",
      (folder) => truncateSync(join(folder, "model.safetensors"), 1_000_000),
      [/model\.safetensors/, /need \d+ bytes, the file has 1000000/, /again/],
    ],
    [
      "a tokenizer whose vocabulary does not fit the embedding",
      (folder) =>
        editJson(join(folder, "tokenizer.json"), (json) => {
          const [last] = (json["added_tokens"] as { id: number; content: string }[]).slice(-1);
          (json["added_tokens"] as unknown[]).push({ ...last, id: 600, content: "<|extra|>" });
        }),
      [/tokenizer\.json/, /largest id is 600/, /512 rows/, /Use the tokenizer that belongs/],
    ],
    [
      "another model_type",
      (folder) => editJson(join(folder, "config.json"), (json) => (json["model_type"] = "gpt2")),
      [/config\.json/, /model_type is "gpt2"/, /expected "qwen2" or "llama"/, /Choose/],
    ],
  ];
  for (const [what, spoil, patterns] of models)
    it(`${what}: launch and cli say the same`, async () => {
      const folder = spoiltModel(spoil);
      const messages = [
        await launchWith(`--model.path=${folder}`),
        await messageOf("cli", ["infer", "--model", folder, "--prompt", "How many?", "--max-new-tokens", "4"]),
      ];
      for (const message of messages) for (const pattern of patterns) expect(message).toMatch(pattern);
    });

  it("an empty data set, as training data and for eval", async () => {
    const file = join(temporary(), "empty.jsonl");
    writeFileSync(file, "\n");
    const messages = [
      await launchWith(`--data.train=${file}`),
      await messageOf("cli", ["eval", "--model", starter, "--data", file, "--out", `${file}.out`]),
    ];
    for (const message of messages) {
      expect(message).toContain(file);
      expect(message).toMatch(/expected at least one line .* found an empty file\. Prepare/);
    }
  });

  it("a prompt longer than the context, in the training data and for infer", async () => {
    const file = join(temporary(), "long.jsonl");
    const question = `How many apples? ${"Anna has 12 apples. ".repeat(100)}`;
    writeFileSync(file, `${JSON.stringify({ question, answer: "#### 12" })}\n`);
    const trained = await launchWith(`--data.train=${file}`, "--data.max_prompt_length=100000");
    expect(trained).toMatch(
      /How many apples\? .* has \d+ tokens; with max_completion_length 64 .* context of 512\. Lower/,
    );
    const tooLong = await launchWith(`--data.train=${file}`);
    expect(tooLong).toMatch(/data\.max_prompt_length: expected prompts of at most 192 tokens, found \d+ .* Raise/);
    const inferred = await messageOf("cli", ["infer", "--model", starter, "--prompt", question]);
    expect(inferred).toMatch(/--prompt: expected 1 to 511 tokens .* found \d+\. Shorten/);
    const asked = (data: string, tokens: string) =>
      messageOf(
        "cli",
        `eval --model ${starter} --out ${file}.out --data ${data} --limit 1 --max-new-tokens ${tokens}`.split(" "),
      );
    expect(await asked(file, "8")).toMatch(/the prompt has \d+ tokens; .*context of 512\. Shorten the prompt/);
    expect(await asked("starter", "512")).toMatch(/context of 512\. Lower it to 4\d\d\./);
  });

  it("a used port", async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await new Promise((done) => server.once("listening", done));
    const { port } = server.address() as { port: number };
    const message = await launchWith(`--transport.address=tcp://127.0.0.1:${port}`);
    server.close();
    expect(message).toContain(`tcp://127.0.0.1:${port}: expected a free port`);
    expect(message).toMatch(/transport\.address|another port/);
  });

  it("a run directory that already holds a run", async () => {
    const runDir = temporary();
    writeFileSync(join(runDir, "config.json"), "{}");
    const message = await messageOf("launch", ["--algo", "grpo", "--run-dir", runDir]);
    expect(message).toContain(runDir);
    expect(message).toMatch(/already holds a run\. Continue it with --resume .* or choose another --run-dir/);
    expect(readFileSync(join(runDir, "config.json"), "utf8")).toBe("{}");
  });

  it("an unknown key names the nearest valid one", async () => {
    expect(await launchWith("--learning_rat=1")).toMatch(/learning_rat\b.*learning_rate/s);
  });

  it.each<[string, string, RegExp]>([
    [
      "throws",
      "export default () => { throw new RangeError('boom'); };",
      /tried on the first.* mine: RangeError: boom/,
    ],
    ["gives words", "export default (c) => c.map(() => 'good');", /found 'good'/],
    ["fails at its import", "throw new Error('boom');", /expected a reward module that loads, .*: boom/],
    ["ends its process", "export default () => process.exit(7);", /it ended its process with code 7/],
    ["never answers", "export default () => new Promise(() => {});", /no answer within 1 s/],
  ])("a reward module that %s is told before a model is loaded", async (_, source, message) => {
    const folder = temporary();
    writeFileSync(join(folder, "mine.mjs"), source);
    const rewards = `--reward.functions=[{name: ${folder}/mine.mjs}]`;
    const runDir = join(folder, "run");
    const found = await messageOf("launch", ["--run-dir", runDir, ...small, rewards, "--reward.timeout_seconds=1"]);
    expect(found).toMatch(message);
    expect(existsSync(runDir)).toBe(false);
  });

  it("a mistyped reward is told with the nearest name", async () => {
    expect(await launchWith("--reward.functions=[{name: corectness}]")).toMatch(/the nearest is "correctness"/);
  });
});
