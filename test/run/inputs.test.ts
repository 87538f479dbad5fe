import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { runConfigSchema } from "../../src/config/schema.js";
import { UserError } from "../../src/errors.js";
import { compareInputs, dataInput, modelInputs, runInputs } from "../../src/run/inputs.js";
import { starter } from "../support/run.js";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "inputs-"));
  return () => rmSync(root, { recursive: true });
});
const write = (name: string, text: string): string => {
  writeFileSync(join(root, name), text);
  return join(root, name);
};
const rows = (name: string, text: string): string => dataInput("data.train", write(name, text), "train").sha256;
const copyOfStarter = (): string => {
  const folder = join(root, "model");
  cpSync(starter, folder, { recursive: true });
  return folder;
};
const hashes = (inputs: readonly { name: string; sha256: string }[]): Record<string, string> =>
  Object.fromEntries(inputs.map(({ name, sha256 }) => [name, sha256]));

test("the rows of a data file decide, not its bytes, its name or where its lines stand", () => {
  const one = rows("a.jsonl", '{"question":"1+1?","answer":"#### 2"}\n{"question":"é?","answer":"#### 3"}\n');
  const same = '\n{ "answer": "#### 2", "question": "1+1?" }\r\n\n{"question":"\\u00e9?","answer":"#### 3"}';
  expect(rows("b.jsonl", same)).toBe(one);
  expect(rows("c.jsonl", '{"question":"1+1?","answer":"#### 2"}\n{"question":"é?","answer":"#### 4"}\n')).not.toBe(one);
  expect(rows("d.jsonl", '{"question":"é?","answer":"#### 3"}\n{"question":"1+1?","answer":"#### 2"}\n')).not.toBe(one);
});

test("a model that was copied is the same; other weights, settings or stop tokens are named", () => {
  const before = hashes(modelInputs(starter));
  const folder = copyOfStarter();
  expect(hashes(modelInputs(folder))).toEqual(before);
  const change = (file: string, edit: (text: string) => string): string[] => {
    const kept = readFileSync(join(folder, file));
    writeFileSync(join(folder, file), edit(kept.toString("latin1")), "latin1");
    const after = hashes(modelInputs(folder));
    writeFileSync(join(folder, file), kept);
    return Object.keys(before).filter((name) => before[name] !== after[name]);
  };
  const lastByte = (text: string): string =>
    text.slice(0, -1) + String.fromCharCode(text.charCodeAt(text.length - 1) ^ 1);
  expect(change("model.safetensors", lastByte)).toEqual(["the base model's weights"]);
  const edited = (edit: object) => (text: string) => JSON.stringify({ ...(JSON.parse(text) as object), ...edit });
  expect(change("config.json", edited({ rms_norm_eps: 1e-3 }))).toEqual(["the model's config.json"]);
  expect(change("config.json", edited({ transformers_version: "9" }))).toEqual([]);
  expect(change("tokenizer_config.json", edited({ padding_side: "right2" }))).toEqual(["the tokenizer"]);
  expect(change("generation_config.json", edited({ eos_token_id: [3] }))).toEqual(["the tokenizer"]);
});

test("an edited helper of a reward module counts, through links and through its own imports", () => {
  mkdirSync(join(root, "lib"));
  write("lib/deep.mjs", "export const one = 1;\n");
  write("lib/helper.mjs", 'import "./helper.mjs";\nexport * from "./deep.mjs";\n');
  write("lib/reward.mjs", 'const { one } = await import("./helper.mjs");\nexport default (c) => c.map(() => one);\n');
  write("lib/other.mjs", "export default (c) => c.map(() => 0);\n");
  const link = join(root, "reward.mjs");
  symlinkSync(join(root, "lib/reward.mjs"), link);
  const run = runConfigSchema.parse({ model: { path: starter }, reward: { functions: [{ name: link }] } });
  const sha256 = (): string => hashes(runInputs(run, "w"))[`the reward module ${link}`]!;
  const before = sha256();
  expect(sha256()).toBe(before);
  write("lib/deep.mjs", "export const one = 2;\n");
  const edited = sha256();
  expect(edited).not.toBe(before);
  unlinkSync(link);
  symlinkSync(join(root, "lib/other.mjs"), link);
  expect(new Set([before, edited, sha256()]).size).toBe(3);
});

test("changed inputs are refused by name, or accepted with a note; without a record nothing can be compared", () => {
  const notes: string[] = [];
  const now = [
    { name: "data.train", where: "/d.jsonl", sha256: "b".repeat(64) },
    { name: "the tokenizer", where: "/m", sha256: "c".repeat(64) },
  ];
  const saved = { "data.train": "a".repeat(64), "the tokenizer": "c".repeat(64) };
  const compare = (before: Record<string, string> | undefined, isAccepted: boolean) => () =>
    compareInputs(before, now, isAccepted, (note) => notes.push(note));
  expect(compare(saved, false)).toThrow(UserError);
  expect(compare(saved, false)).toThrow(
    /^data\.train \(\/d\.jsonl\): expected sha256 a{12}, found b{12}: .*--accept-changed-inputs$/,
  );
  expect(notes).toEqual([]);
  compare(saved, true)();
  compare({ ...saved, "data.train": "b".repeat(64) }, false)();
  compare(undefined, false)();
  expect(notes).toEqual([
    expect.stringMatching(/^Changed inputs were accepted: data\.train .*found b{12}\.$/),
    expect.stringMatching(/earlier release.*cannot be told/),
  ]);
});
