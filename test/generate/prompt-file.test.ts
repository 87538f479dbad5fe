/**
 * Input and output of `infer --input` as files; what the answers are is tested in
 * integration/infer.test.ts.
 */
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, test } from "vitest";
import {
  type AnswerLine,
  openAnswerFile,
  parsePrompt,
  readPromptLines,
  shortHash,
} from "../../src/generate/prompt-file.js";

let folder = "";
let [input, output] = ["", ""];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "prompts-"));
  [input, output] = [join(folder, "in.jsonl"), join(folder, "out.jsonl")];
});
afterEach(() => rmSync(folder, { recursive: true }));

describe("a line of the input", () => {
  const parse = (json: unknown) =>
    parsePrompt({ index: 0, where: "in.jsonl:1", text: typeof json === "string" ? json : JSON.stringify(json) });

  test.each<[object, object]>([
    [{ prompt: "2 + 2" }, { prompt: "2 + 2" }],
    [
      { question: "How many?", answer: "#### 4", id: "gsm8k/1" },
      { prompt: "How many?", id: "gsm8k/1" },
    ],
    [
      { messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }], id: 3 },
      { prompt: [{ role: "user", content: "Hi" }], id: 3 },
    ],
  ])("%j is a prompt", (json, expected) => {
    expect(parse(json)).toEqual(expected);
  });

  test.each<[unknown, RegExp]>([
    ["{", /^in.jsonl:1: expected a prompt as a JSON object/],
    ["{'prompt': 1}", /^in.jsonl:1: expected a prompt as a JSON object, found none that can be read \(.+\)\.$/],
    [{ promt: "x" }, /expected one of prompt, messages and question, found none\.$/],
    [{ prompt: "x", question: "y" }, /found 2\.$/],
    [{ messages: [] }, /messages/],
    [{ messages: [{ role: "tool", content: "x" }] }, /role/],
  ])("%j is refused, naming the line", (json, message) => {
    expect(() => parse(json)).toThrow(message);
  });

  test("blank lines are skipped, and count in what a line is called", () => {
    writeFileSync(input, '\n{"prompt": "a"}\n\n{"prompt": "b"}\n');
    expect(readPromptLines(input)).toEqual([
      { index: 0, where: `${input}:2`, text: '{"prompt": "a"}' },
      { index: 1, where: `${input}:4`, text: '{"prompt": "b"}' },
    ]);
  });

  test("a missing and an empty file are refused", () => {
    expect(() => readPromptLines(input)).toThrow(/found no such file/);
    writeFileSync(input, "\n");
    expect(() => readPromptLines(input)).toThrow(/found an empty one/);
  });
});

describe("the output", () => {
  const prompts = ["a", "b", "c", "d"];
  const write = (texts: readonly string[]) =>
    writeFileSync(input, texts.map((prompt) => `${JSON.stringify({ prompt })}\n`).join(""));
  beforeEach(() => write(prompts));
  const open = (settings = "s", overwrite = false, retryErrors = false) =>
    openAnswerFile(output, input, readPromptLines(input), settings, { overwrite, retryErrors });
  const line = (index: number, error?: string): AnswerLine => {
    const head = { index, input_hash: shortHash(readPromptLines(input)[index]!.text), settings_hash: "s" };
    return error === undefined ? { ...head, prompt_tokens: 1, completions: [] } : { ...head, error };
  };
  const written = () =>
    readFileSync(output, "utf8")
      .split("\n")
      .slice(0, -1)
      .map((text) => (JSON.parse(text) as AnswerLine).index);

  it("has the input's order, whatever the order of the answers; a line is there once all before it are", () => {
    const file = open();
    file.add(line(2));
    expect(written()).toEqual([]);
    file.add(line(0));
    expect(written()).toEqual([0]);
    file.add(line(1));
    expect(written()).toEqual([0, 1, 2]);
    file.close();
  });

  it("goes on after its last whole line; a torn one is asked again; errors are counted on", () => {
    const first = open();
    for (const answer of [line(0), line(1, "too long")]) first.add(answer);
    first.close();
    appendFileSync(output, '{"index":2,"inp');
    const second = open();
    expect([second.kept, [...second.errors]]).toEqual([2, [[1, "too long"]]]);
    for (const answer of [line(3), line(2, "too long, too")]) second.add(answer);
    second.close();
    expect(written()).toEqual([0, 1, 2, 3]);
    expect([...open().errors.values()]).toEqual(["too long", "too long, too"]);
  });

  it("has lines with errors asked again where that is wanted, and keeps the others", () => {
    const first = open();
    for (const answer of [line(0, "busy"), line(1), line(2, "too long")]) first.add(answer);
    first.close();
    const openLines = (file: ReturnType<typeof open>) =>
      readPromptLines(input).flatMap((asked) => (file.isOpen(asked) ? [asked.index] : []));
    expect(openLines(open())).toEqual([3]);
    const again = open("s", false, true);
    expect(openLines(again)).toEqual([0, 2, 3]);
    for (const answer of [line(3), line(2, "still too long"), line(0)]) again.add(answer);
    again.close();
    expect(written()).toEqual([0, 1, 2, 3]);
    expect([...open().errors]).toEqual([[2, "still too long"]]);
  });

  it("has a line that was mended asked again, and no other error", () => {
    const first = open();
    for (const answer of [line(0), line(1, "too long"), line(2, "no prompt"), line(3)]) first.add(answer);
    first.close();
    write(["a", "B", "c", "d"]);
    const openLines = (retryErrors: boolean) => {
      const file = open("s", false, retryErrors);
      return readPromptLines(input).flatMap((asked) => (file.isOpen(asked) ? [asked.index] : []));
    };
    expect([openLines(false), openLines(true)]).toEqual([[1], [1, 2]]);
    const again = open();
    again.add(line(1));
    again.close();
    expect([...open().errors]).toEqual([[2, "no prompt"]]);
    expect(openLines(false)).toEqual([]);
  });

  it("of another input is refused at the first line that differs, and begun anew with --overwrite", () => {
    const first = open();
    for (const index of [0, 1, 2]) first.add(line(index));
    first.close();
    write(["a", "B", "c"]);
    expect(() => open()).toThrow(
      /out.jsonl:2: expected the answer to .*in.jsonl:2, found that to another prompt\. Choose/,
    );
    write(["a", "b"]);
    expect(() => open()).toThrow(/out.jsonl:3: expected no more lines than .* has prompts \(2\)/);
    expect(open("s", true).kept).toBe(0);
    expect(readFileSync(output, "utf8")).toBe("");
  });

  it("of other settings, or of no answers at all, is refused and left as it is", () => {
    const first = open();
    first.add(line(0));
    first.close();
    const before = readFileSync(output, "utf8");
    expect(() => open("t")).toThrow(/out.jsonl:1: expected an answer of this model and these settings/);
    expect(readFileSync(output, "utf8")).toBe(before);
    writeFileSync(output, '{"question": "q"}\n');
    expect(() => open()).toThrow(/out.jsonl:1: expected a line that infer wrote/);
    expect(readFileSync(output, "utf8")).toBe('{"question": "q"}\n');
  });

  it("is not the input", () => {
    expect(() => openAnswerFile(input, join(folder, ".", "in.jsonl"), [], "s", { overwrite: true })).toThrow(
      /another file than --input/,
    );
    expect(readFileSync(input, "utf8")).toContain('"a"');
  });
});
