import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { prepareGsm8k } from "../../src/tasks/prepare-gsm8k.js";
import { UserError } from "../../src/errors.js";
import { loadDataset } from "../../src/tasks/dataset.js";
import { extractAnswer, goldAnswer, isWellFormed, outcomeOf } from "../../src/tasks/extract.js";
import { type Gsm8kProblem, gsm8kLines, parseGsm8k, removeAnnotations, splitDev } from "../../src/tasks/gsm8k.js";

const published = fileURLToPath(new URL("../../../shared/gsm8k", import.meta.url));
const absent = existsSync(join(published, "train.jsonl")) ? false : "GSM8K's files are not beside the project";
if (absent !== false) console.warn(`skipping tests on real data: ${absent}`);

const root = mkdtempSync(join(tmpdir(), "finellama-gsm8k-"));
afterAll(() => rmSync(root, { recursive: true }));
let out: string;
beforeEach(() => (out = join(mkdtempSync(join(root, "out-")), "gsm8k")));
const quiet = { total: () => {}, add: () => {}, note: () => {} };
const read = (file: string): Gsm8kProblem[] => parseGsm8k(readFileSync(file, "utf8"), file);

const problems = Array.from({ length: 40 }, (_, i) => ({
  question: `How many? ${i}`,
  answer: `<<${i}+1=${i + 1}>>${i + 1}\n#### ${i + 1}`,
}));

describe("dev problems", () => {
  test("are chosen by their questions alone, whatever the file's order", () => {
    const { train, dev } = splitDev(problems, 10);
    const reversed = splitDev(problems.toReversed(), 10);
    expect(dev.length).toBe(10);
    expect(new Set([...train, ...dev])).toEqual(new Set(problems));
    expect(reversed.dev).toEqual(dev.toReversed());
    expect(reversed.train).toEqual(train.toReversed());
    // and both parts keep the file's order
    expect(dev).toEqual(problems.filter((problem) => dev.includes(problem)));
    expect(dev).not.toEqual(problems.slice(0, 10));
  });

  test("stay what they are: another choice would be another benchmark", () => {
    const numbers = splitDev(problems, 5).dev.map(({ question }) => Number(question.slice(10)));
    const byHand = problems
      .map(({ question }, i) => ({
        i,
        key: createHash("sha256").update(`finellama-rl/gsm8k-dev/1\n${question}`).digest("hex"),
      }))
      .sort((a, b) => a.key.localeCompare(b.key))
      .slice(0, 5)
      .map(({ i }) => i);
    expect(numbers).toEqual(byHand.sort((a, b) => a - b));
  });
});

describe("calculator annotations", () => {
  test("are removed with nothing else", () => {
    const answer = "In May she sold 48/2 = <<48/2=24>>24 clips.\nThat is <<48+24=72>>72, and 3 < 5 > 1.\n#### 72";
    expect(removeAnnotations(answer)).toBe("In May she sold 48/2 = 24 clips.\nThat is 72, and 3 < 5 > 1.\n#### 72");
    expect(gsm8kLines([{ question: "a << b >>?", answer }])).toBe(
      `${JSON.stringify({ question: "a << b >>?", answer: removeAnnotations(answer) })}\n`,
    );
  });

  test("in a model's own steps change no verdict; in its last line they make it unreadable", () => {
    const steps = "4+5=<<4+5=9>>9\n#### 9";
    expect(extractAnswer(steps)).toEqual(extractAnswer(removeAnnotations(steps)));
    expect(outcomeOf(steps, "stop", "#### 9")).toBe("correct");
    expect(isWellFormed(steps)).toBe(true);
    expect(outcomeOf("#### <<4+5=9>>9", "stop", "#### 9")).toBe("unparsed");
  });
});

describe("prepare-data", () => {
  test.skipIf(absent)(
    "writes train, dev and test of the published files, and a manifest that describes them",
    async () => {
      expect(await prepareGsm8k({ from: published, out }, quiet)).toEqual({ train: 6973, dev: 500, test: 1319 });
      expect(readdirSync(out).sort()).toEqual(["dev.jsonl", "manifest.json", "test.jsonl", "train.jsonl"]);
      const manifest = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8")) as {
        files: Record<string, { problems: number; sha256: string }>;
      };
      for (const [name, { problems: count, sha256 }] of Object.entries(manifest.files)) {
        const text = readFileSync(join(out, name), "utf8");
        expect(createHash("sha256").update(text).digest("hex")).toBe(sha256);
        expect(text).not.toMatch(/<<|>>/);
        expect(loadDataset(join(out, name), "train").size).toBe(count);
      }
      // nothing lost, nothing twice, no dev problem in train
      const [train, dev, test] = ["train", "dev", "test"].map((name) => read(join(out, `${name}.jsonl`)));
      const [sourceTrain, sourceTest] = ["train", "test"].map((name) => read(join(published, `${name}.jsonl`)));
      const questions = (list: readonly Gsm8kProblem[]): string[] => list.map(({ question }) => question);
      expect(questions([...train!, ...dev!]).sort()).toEqual(questions(sourceTrain!).sort());
      expect(new Set(questions([...train!, ...dev!])).size).toBe(7473);
      expect(questions(test!)).toEqual(questions(sourceTest!));
      // the annotations carry no answer
      const gold = new Map(
        [...sourceTrain!, ...sourceTest!].map(({ question, answer }) => [question, goldAnswer(answer)]),
      );
      for (const { question, answer } of [...train!, ...dev!, ...test!])
        expect(goldAnswer(answer)).toBe(gold.get(question));
    },
  );

  test.skipIf(absent)("always chooses the same dev problems", async () => {
    await prepareGsm8k({ from: published, out }, quiet);
    const digest = createHash("sha256")
      .update(readFileSync(join(out, "dev.jsonl")))
      .digest("hex");
    expect(digest).toBe("e66795f6952a834aa17b802c9bbb305fde4337fa41b9d1948c046333fc2924c4");
  });

  test.skipIf(absent)("leaves equal files as they are and refuses different ones", async () => {
    await prepareGsm8k({ from: published, out }, quiet);
    rmSync(join(out, "dev.jsonl"));
    await prepareGsm8k({ from: published, out }, quiet);
    expect(read(join(out, "dev.jsonl")).length).toBe(500);
    writeFileSync(join(out, "test.jsonl"), "mine");
    await expect(prepareGsm8k({ from: published, out }, quiet)).rejects.toThrow(
      /test\.jsonl: exists with other contents/,
    );
    expect(readFileSync(join(out, "test.jsonl"), "utf8")).toBe("mine");
  });

  test.skipIf(absent)("downloads when no folder is given", async () => {
    const server = createServer((request, response) => response.end(readFileSync(join(published, request.url!))));
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    try {
      const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      let bytes = 0;
      expect(await prepareGsm8k({ out }, { ...quiet, add: (n) => (bytes += n) }, address)).toMatchObject({ dev: 500 });
      expect(bytes).toBe(
        ["train", "test"].reduce((sum, name) => sum + readFileSync(join(published, `${name}.jsonl`)).length, 0),
      );
    } finally {
      server.close();
    }
  });

  test.skipIf(absent)("refuses a source of which one byte differs, and writes nothing", async () => {
    const from = mkdtempSync(join(root, "from-"));
    cpSync(published, from, { recursive: true });
    const file = join(from, "test.jsonl");
    writeFileSync(file, readFileSync(file, "utf8").replace("ducks", "docks"));
    await expect(prepareGsm8k({ from, out }, quiet)).rejects.toThrow(
      /test\.jsonl: expected the published file with sha256 3730d312/,
    );
    expect(existsSync(out)).toBe(false);
  });

  test("says what is missing, refused or out of reach", async () => {
    const told = async (from: string | undefined, address?: string): Promise<string> => {
      const error: unknown = await prepareGsm8k(from === undefined ? { out } : { from, out }, quiet, address).catch(
        (e: unknown) => e,
      );
      expect(error).toBeInstanceOf(UserError);
      return (error as Error).message;
    };
    expect(await told(root)).toMatch(/--from: expected GSM8K's train.jsonl and test.jsonl, found no .*train.jsonl/);
    expect(await told(undefined, "http://127.0.0.1:9")).toMatch(
      /127.0.0.1:9\/train.jsonl: cannot be downloaded \(.+\)\. .*--from DIR/,
    );
    const server = createServer((request, response) => {
      if (request.url === "/gone/train.jsonl") response.statusCode = 404;
      response.end("<html>log in first</html>");
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    try {
      const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      expect(await told(undefined, `${address}/gone`)).toMatch(/the server answered 404.*--from DIR/);
      expect(await told(undefined, address)).toMatch(/expected the published file with sha256 17f347dc.*\(25 bytes\)/);
    } finally {
      server.close();
    }
    expect(existsSync(out)).toBe(false);
  });
});
