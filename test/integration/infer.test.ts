/**
 * `infer` from the command line on the starter model: files of prompts, cut and gone on with;
 * streams; an adapter; float16.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cli } from "../../src/cli.js";
import type { AnswerLine } from "../../src/generate/prompt-file.js";
import type { Answer } from "../../src/generate/prompting.js";
import { loadDataset } from "../../src/tasks/dataset.js";
import { randomAdapter } from "../support/adapter.js";
import { cleanUp, reason, root, run, starter, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);
const folder = temporary();
const file = (name: string): string => join(folder, name);
const data = loadDataset("starter-test", "validation");
const questions = Array.from({ length: 40 }, (_, i) => data.problem(i));
const read = (name: string): AnswerLine[] =>
  readFileSync(file(name), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as AnswerLine);
const answersIn = (line: AnswerLine): readonly Answer[] => ("completions" in line ? line.completions : []);

/**
 * 43 lines: problems as they are, a conversation, one that is no prompt, and one that is too long.
 */
const fromFile = (output: string, ...more: string[]) => {
  const settings = ["--max-new-tokens", "48", "-n", "2", "--threads", "1"];
  return ["infer", starter, "--input", file("in.jsonl"), "--output", file(output), ...settings, ...more];
};

describe.skipIf(unrunnable)(`infer${reason}`, () => {
  const question = questions[0]!.question;
  const ask = async (...args: string[]) => {
    const { code, stdout, stderr } = await run("cli", ["infer", "--prompt", question, "--threads", "1", ...args]);
    expect(code, stderr).toBe(0);
    return stdout;
  };

  describe("of a file", () => {
    beforeAll(async () => {
      const conversation = { id: 5, messages: [{ role: "user", content: question }] };
      const lines = [...questions, conversation, { promt: "?" }, { id: "long", prompt: "apples ".repeat(600) }];
      writeFileSync(file("in.jsonl"), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
      const { code, stdout, stderr } = await run("cli", fromFile("whole.jsonl"));
      expect([code, stdout], stderr).toEqual([1, ""]);
      // what is wrong, line by line, then the sum
      expect(stderr).toMatch(
        /^\S*in.jsonl:42: expected one of prompt, messages and question, found none\.\n\S*in.jsonl:43: expected 1 to 511 tokens .* Shorten it\.\n\S*whole.jsonl: 43 lines, 2 errors\n$/m,
      );
    });

    it("line k answers prompt k: ids, as many answers as asked for, and counted errors", () => {
      const lines = read("whole.jsonl");
      expect(lines.map(({ index, id }) => [index, id])).toEqual([
        ...questions.map(({ id }, i) => [i, id]),
        [40, 5],
        [41, undefined],
        [42, "long"],
      ]);
      for (const line of lines.slice(0, 41)) {
        const answers = answersIn(line);
        expect(answers).toHaveLength(2);
        for (const { text, tokens, finish_reason, logprob } of answers) {
          expect(text).not.toContain("<|im_end|>");
          expect(tokens).toBeLessThanOrEqual(48);
          expect(finish_reason).toBe(tokens < 48 ? "stop" : finish_reason);
          expect(logprob).toBeLessThan(0);
        }
      }
      expect(lines.slice(41).map((line) => "error" in line && line.error)).toEqual([
        expect.stringMatching(/in.jsonl:42: expected one of prompt, messages and question/),
        expect.stringMatching(/in.jsonl:43: expected 1 to 511 tokens .* Shorten it/),
      ]);
    });

    it("its first line is what the prompt alone gives, the sum of log-probabilities included", async () => {
      const alone = (await ask(starter, "--json", "--max-new-tokens", "48", "-n", "2"))
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line) as Answer & { prompt_ids: number[]; completion_ids: number[] });
      const [first] = read("whole.jsonl");
      expect(first).toMatchObject({ prompt_tokens: alone[0]!.prompt_ids.length });
      const expected = answersIn(first!);
      expect(alone.map(({ text, completion_ids }) => [text, completion_ids.length])).toEqual(
        expected.map(({ text, tokens }) => [text, tokens]),
      );
      // the same rows in another batch: rounding alone may differ
      for (const [c, { logprob }] of alone.entries()) expect(logprob).toBeCloseTo(expected[c]!.logprob, 3);
      // the same question, asked at another place: other noise
      expect(answersIn(read("whole.jsonl")[40]!)).not.toEqual(expected);
    });

    it("killed in the middle, it goes on where it stopped and comes to the same texts", async () => {
      const out = file("cut.jsonl");
      const args = fromFile("cut.jsonl", "--max-rows", "2");
      const child = spawn(process.execPath, [join(root, "dist/cli.js"), ...args], { stdio: "ignore" });
      const ended = new Promise((resolve) => child.once("exit", resolve));
      while (child.exitCode === null && !(existsSync(out) && statSync(out).size > 0)) await sleep(2);
      child.kill("SIGKILL");
      await ended;
      const before = readFileSync(out, "utf8");
      const { code, stderr } = await run("cli", fromFile("cut.jsonl", "--engines", "2", "--max-rows", "16"));
      expect(code, stderr).toBe(1);
      expect(stderr).toMatch(/going on: \d+ of 43 lines are there/);
      expect(readFileSync(out, "utf8").startsWith(before.slice(0, before.lastIndexOf("\n") + 1))).toBe(true);
      const texts = (name: string) => read(name).map((line) => answersIn(line).map(({ text }) => text));
      expect(texts("cut.jsonl")).toEqual(texts("whole.jsonl"));
    });

    it.each<[string, () => string[]]>([
      ["another number type", () => fromFile("whole.jsonl", "--dtype", "float16")],
      ["other weights", () => fromFile("whole.jsonl").with(1, randomAdapter(starter, temporary(), 0.2).adapter)],
    ])("of %s is refused", async (_, command) => {
      const args = command();
      const { code, stderr } = await run("cli", args);
      expect(code).toBe(1);
      expect(stderr).toMatch(/^error: .*whole.jsonl:1: expected an answer of this model and these settings/);
    });
  });

  it("--stream writes what is printed without it, in whole characters", async () => {
    // at this temperature the bytes are noise, many of them parts of no character
    const noise = [starter, "--max-new-tokens", "200", "--temperature", "50", "--segment-length", "1"];
    const whole = await ask(...noise);
    expect(whole).toContain("\uFFFD");
    const child = spawn(
      process.execPath,
      [join(root, "dist/cli.js"), "infer", "--prompt", question, "--stream", ...noise],
      { cwd: root, stdio: ["ignore", "pipe", "inherit"] },
    );
    const pieces: Buffer[] = [];
    child.stdout.on("data", (piece: Buffer) => pieces.push(piece));
    await new Promise((resolve) => child.once("close", resolve));
    // each piece alone is UTF-8: a decoder that forgets nothing between them would hide a torn
    // character
    expect(pieces.map((piece) => new TextDecoder("utf-8", { fatal: true }).decode(piece)).join("")).toBe(whole);
  });

  it("an adapter folder answers as the merged model does, also without a tokenizer of its own", async () => {
    const { adapter, merged } = randomAdapter(starter, temporary(), 0.2);
    const greedy = ["--greedy", "--max-new-tokens", "24", "--json"];
    const ids = async (model: string) =>
      (JSON.parse(await ask(model, ...greedy)) as { completion_ids: number[] }).completion_ids;
    const expected = await ids(merged);
    expect(await ids(adapter)).toEqual(expected);
    expect(await ids(starter)).not.toEqual(expected);
    for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
      rmSync(join(adapter, name), { force: true });
    expect(await ids(adapter)).toEqual(expected);
  });

  it("float16 is another computation of nearly the same numbers", async () => {
    const logprob = async (dtype: string) =>
      (JSON.parse(await ask(starter, "--greedy", "--json", "--dtype", dtype)) as Answer).logprob;
    const [half, single] = [await logprob("float16"), await logprob("float32")];
    expect(half).not.toBe(single);
    expect(half).toBeCloseTo(single, 1);
  });

  it.each<[string[], RegExp]>([
    [[starter], /expected --prompt TEXT or --input FILE/],
    [["--prompt", "x"], /expected a model\. Name its folder/],
    [[starter, "--model", starter, "--prompt", "x"], /expected one model/],
    [[starter, "--input", "in.jsonl"], /--input and --output go together/],
    [[starter, "--prompt", "x", "--input", "in.jsonl", "--output", "o"], /cannot be used with option '--input/],
    [[starter, "--prompt", "x", "--stream", "-n", "2"], /--stream: expected one answer, found -n 2/],
    [[starter, "--prompt", "x", "-n", "300"], /-n 300: expected at most --max-rows \(256\)/],
  ])("%j is refused", async (args, message) => {
    await expect(cli(["infer", ...args])).rejects.toThrow(message);
  });
});
