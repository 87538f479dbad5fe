import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { makePrompts, promptIdsOf } from "../../src/eval/prompts.js";
import { loadTokenizer } from "../../src/model/tokenizer.js";
import { loadDataset } from "../../src/tasks/dataset.js";
import { smollm2Folder } from "../support/smollm2.js";

interface Row {
  readonly prompt_sha256: string;
  readonly prompt_tokens: number;
}
const golden = JSON.parse(readFileSync(new URL("../golden/lm_eval_smollm2.json", import.meta.url), "utf8")) as Record<
  "lm-eval-5shot" | "lm-eval-cot-zeroshot",
  Row[]
>;
const gsm8k = new URL("../../../shared/gsm8k/", import.meta.url).pathname;
describe.skipIf(!existsSync(gsm8k))("on GSM8K (skipped where its files are absent)", () => {
  it.each(["lm-eval-5shot", "lm-eval-cot-zeroshot"] as const)("%s: lm-eval's prompts, to the byte", (name) => {
    const test = loadDataset(join(gsm8k, "test.jsonl"), "validation");
    const questions = golden[name].map((_, i) => test.problem(i).question);
    const fewshot = name === "lm-eval-5shot" ? { fewshot: join(gsm8k, "train.jsonl") } : {};
    const { texts } = makePrompts({ name, system: null, suffix: "", ...fewshot }, questions);
    const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
    expect(texts.map((text) => sha256(text as string))).toEqual(golden[name].map((row) => row.prompt_sha256));
    if (smollm2Folder === undefined) return;
    const tokenizer = loadTokenizer(smollm2Folder);
    expect(texts.map((text) => promptIdsOf(tokenizer, text).length)).toEqual(
      golden[name].map((row) => row.prompt_tokens),
    );
  });
});
