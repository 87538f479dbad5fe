import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { z } from "zod";
import { afterAll, describe, expect, test } from "vitest";
import { loadConfig } from "../src/config/load.js";
import { UserError } from "../src/errors.js";
import { jsonOf, parseJson, readJson, readJsonLines, readLines, readText } from "../src/files.js";
import { readPromptLines } from "../src/generate/prompt-file.js";
import { readStudy } from "../src/study/definition.js";
import { loadDataset } from "../src/tasks/dataset.js";

const folder = mkdtempSync(join(tmpdir(), "files-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = join(folder, "text");
const bytes = (text: string, encoding: BufferEncoding = "utf8") => Buffer.from(text, encoding);
const line = '{"question": "café?", "answer": "#### 1"}\n';

const readers = {
  text: () => readText(file),
  "data set": () => loadDataset(file, "train"),
  prompts: () => readPromptLines(file),
  configuration: () => loadConfig({ files: [file] }),
  study: () => readStudy(file),
};

describe.each(Object.entries(readers))("a file read as %s", (_, read) => {
  test.each<[string, Uint8Array, RegExp]>([
    ["UTF-16", Buffer.concat([bytes("\xff\xfe", "latin1"), bytes(line, "utf16le")]), /found UTF-16\. .*iconv/],
    ["UTF-16, big end first", bytes("\xfe\xff\0{", "latin1"), /found UTF-16/],
    ["UTF-16 without a mark", bytes(line, "utf16le"), /found zero bytes/],
    ["gzip", gzipSync(line), /found a gzip archive\. .*gunzip/],
    ["zip", bytes("PK\x03\x04\x14"), /found a zip archive/],
    ["zstd", bytes("\x28\xb5\x2f\xfd\x04", "latin1"), /found a zstd archive/],
    ["Parquet", bytes("PAR1\x15\x04"), /found a Parquet file/],
    ["a git-LFS pointer", bytes("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), /git lfs pull/],
    ["Latin-1 in line 2", Buffer.concat([bytes(line), bytes(line, "latin1")]), /text:2: expected text in UTF-8/],
    ["Latin-1 without a last newline", bytes("\n\n# caf\xe9", "latin1"), /text:3: expected text in UTF-8/],
    ["cut inside a character", bytes("# caf\xc3", "latin1"), /text:1: expected text in UTF-8/],
  ])("that is %s is refused for what it is", (_name, content, message) => {
    writeFileSync(file, content);
    expect(read).toThrow(message);
  });
});

test("a byte order mark is no part of a text", () => {
  writeFileSync(file, `\uFEFF${line}`);
  expect(readText(file)).toBe(line);
  expect(loadDataset(file, "train").problem(0)).toEqual({ id: "text/1", question: "café?", answer: "#### 1" });
  expect(readPromptLines(file)).toEqual([{ index: 0, where: `${file}:1`, text: line.trim() }]);
  writeFileSync(file, "\uFEFFmax_steps: 7\n");
  expect(loadConfig({ files: [file] }).config.max_steps).toBe(7);
});

test("lines are told by where they stand; blank ones are left out", () => {
  writeFileSync(file, "\na\r\n \nb");
  expect(readLines(file)).toEqual([
    { where: `${file}:2`, text: "a\r" },
    { where: `${file}:4`, text: "b" },
  ]);
});

test.each(["{", "{'a': 1}", "[1,]", "nope", ""])("%j is refused with the reason", (text) => {
  expect(() => parseJson(text, "f:7", "a prompt")).toThrow(
    /^f:7: expected a prompt, found none that can be read \(.+\)\.$/,
  );
});

test.each<[string, (path: string) => unknown]>([
  ["text", readText],
  ["JSON", (path) => readJson(path, z.unknown())],
  ["JSON lines", (path) => readJsonLines(path, z.unknown())],
])("a folder in place of %s is told as one", (_, read) => {
  const path = join(folder, "a-folder");
  mkdirSync(path, { recursive: true });
  expect(() => read(path)).toThrow(new UserError(`${path}: expected a file, found a folder. Move it away.`));
});

test("JSON is read without its byte order mark, and refused for what else it is", () => {
  writeFileSync(file, '\uFEFF{"a": 1}');
  expect(readJson(file, z.unknown())).toEqual({ a: 1 });
  writeFileSync(file, gzipSync("{}"));
  expect(() => readJson(file, z.unknown())).toThrow(/text: expected text in UTF-8, found a gzip archive/);
});

test("JSON may have 100 levels, not 101", () => {
  const nested = (levels: number): string => "[".repeat(levels) + "]".repeat(levels);
  expect(jsonOf(nested(100))).toBeDefined();
  expect(jsonOf(nested(101))).toBeUndefined();
  expect(() => parseJson(nested(100_000), "a.json", "a list")).toThrow(
    new UserError("a.json: expected a list, found none that can be read (more than 100 levels of lists and objects)."),
  );
});

describe("a long message", () => {
  test("keeps the start and the end of a long line", () => {
    const { message } = new UserError(`a.json: found ${"x".repeat(20_000)}. Download it again.`);
    expect(message).toMatch(/^a\.json: found x{986} … x{380}\. Download it again\.$/);
  });

  test("keeps its first and last lines, and a report is not long", () => {
    const lines = Array.from({ length: 1_000 }, (_, i) => `line ${i}`);
    const { message } = new UserError(lines.join("\n"));
    expect(message.split("\n")).toEqual([...lines.slice(0, 50), "… (910 lines more)", ...lines.slice(-40)]);
    expect(new UserError(lines.slice(0, 100).join("\n")).message).toBe(lines.slice(0, 100).join("\n"));
  });
});
