import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { readModelConfig } from "../../src/model/config.js";
import { type ChatMessage, loadTokenizer, templateTurnEnd } from "../../src/model/tokenizer.js";

const starter = fileURLToPath(new URL("../../assets/starter", import.meta.url));
const config = readModelConfig(starter);
const tokenizer = loadTokenizer(starter, config);
/** Made by test/reference/tokenizer_reference.py with transformers' AutoTokenizer. */
const golden = JSON.parse(readFileSync(new URL("../golden/tokenizer.json", import.meta.url), "utf8")) as {
  texts: { text: string; ids: number[] }[];
  chats: { messages: ChatMessage[]; addGenerationPrompt: boolean; ids: number[] }[];
  decoded: { ids: number[]; text: string; skipped: string }[];
};

const folder = mkdtempSync(join(tmpdir(), "finellama-tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => {
  for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"])
    cpSync(join(starter, name), join(folder, name));
  rmSync(join(folder, "chat_template.jinja"), { force: true });
});
/** Changes fields of one of the folder's JSON files; undefined removes a field. */
function edit(name: string, changes: Record<string, unknown>): void {
  const json = JSON.parse(readFileSync(join(folder, name), "utf8")) as Record<string, unknown>;
  writeFileSync(join(folder, name), JSON.stringify({ ...json, ...changes }));
}

describe("against transformers", () => {
  it.each(golden.texts)("encodes $text alike", ({ text, ids }) => {
    expect(Array.from(tokenizer.encode(text))).toEqual(ids);
  });

  it("renders and encodes chats alike, special tokens in a message included", () => {
    expect(golden.chats.length).toBeGreaterThan(50);
    for (const { messages, addGenerationPrompt, ids } of golden.chats)
      expect(Array.from(tokenizer.chatPrompt(messages, { addGenerationPrompt }))).toEqual(ids);
  });

  it("decodes alike, broken UTF-8 and special tokens included", () => {
    expect(golden.decoded.some(({ text }) => text.includes("\uFFFD"))).toBe(true);
    for (const { ids, text, skipped } of golden.decoded) {
      expect(tokenizer.decode(ids)).toBe(text);
      expect(tokenizer.decode(Int32Array.from(ids), { skipSpecial: true })).toBe(skipped);
    }
  });
});

describe("the starter's tokenizer", () => {
  it("gives back any text, up to Unicode's composed form", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text.normalize("NFC"));
      }),
    );
  });

  it("gives each digit a token", () => {
    expect(tokenizer.encode("1234567890").length).toBe(10);
  });

  it("stops at both of Qwen2.5's end tokens", () => {
    const [endOfText, endOfTurn] = [tokenizer.encode("<|endoftext|>"), tokenizer.encode("<|im_end|>")];
    expect([endOfText.length, endOfTurn.length]).toEqual([1, 1]);
    expect(tokenizer.stopIds).toEqual([endOfText[0], endOfTurn[0]]);
  });

  it("fits its embedding exactly", () => {
    expect(tokenizer.vocabSize).toBe(config.vocabSize);
  });
});

describe("a model folder", () => {
  it("whose largest id does not fit the embedding is refused with both numbers", () => {
    expect(() => loadTokenizer(folder, { ...config, vocabSize: 511 })).toThrow(/largest id is 511, .* has 511 rows/);
  });

  it("may have embedding rows without a token: they decode to nothing", () => {
    const larger = loadTokenizer(folder, { ...config, vocabSize: 600 });
    expect(larger.decode([599, ...larger.encode("5+5"), 550])).toBe("5+5");
    expect(larger.decode([599])).toBe("");
    expect(larger.decode([])).toBe("");
  });

  it("stops at generation_config.json's ids and the tokenizer's eos; without either, at config.json's", () => {
    edit("generation_config.json", { eos_token_id: 7 });
    edit("tokenizer_config.json", { eos_token: { content: "<|im_end|>", special: true } });
    expect(loadTokenizer(folder).stopIds).toEqual([7, 511]);
    rmSync(join(folder, "generation_config.json"));
    expect(loadTokenizer(folder).stopIds).toEqual([511]);
    edit("tokenizer_config.json", { eos_token: null });
    edit("config.json", { eos_token_id: [3, 5] });
    expect(loadTokenizer(folder).stopIds).toEqual([3, 5]);
    edit("config.json", { eos_token_id: null });
    expect(() => loadTokenizer(folder)).toThrow(/expected an end-of-text token/);
  });

  it("may keep its chat template in chat_template.jinja, or among named ones", () => {
    const messages: ChatMessage[] = [{ role: "user", content: "hi" }];
    const templateOf = (text: string): string =>
      `{%- for message in messages %}${text}{{ message['content'] }}{{ eos_token }}{%- endfor %}`;
    edit("tokenizer_config.json", {
      chat_template: [
        { name: "tools", template: "no" },
        { name: "default", template: templateOf("A") },
      ],
    });
    expect(loadTokenizer(folder).renderChat(messages)).toBe("Ahi<|im_end|>");
    edit("tokenizer_config.json", { chat_template: { tool_use: "no", default: templateOf("D") } });
    expect(loadTokenizer(folder).renderChat(messages)).toBe("Dhi<|im_end|>");
    for (const none of [null, [], [null], {}, [{ name: "tools", template: "no" }], { default: 3 }]) {
      edit("tokenizer_config.json", { chat_template: none });
      expect(() => loadTokenizer(folder).renderChat(messages)).toThrow(/expected a chat template .* found none/);
    }
    writeFileSync(join(folder, "chat_template.jinja"), templateOf("B"));
    expect(loadTokenizer(folder).renderChat(messages)).toBe("Bhi<|im_end|>");
  });

  it.each(["tools", "documents"])("passes %s to the template as none", (name) => {
    const is = (test: string): string => `{% if ${name} is ${test} %}${test};{% endif %}`;
    const tests = ["not none", "none", "defined"].map(is).join("");
    edit("tokenizer_config.json", { chat_template: `${tests}{% if ${name} %}yes{% endif %}` });
    expect(loadTokenizer(folder).renderChat([])).toBe("none;defined;");
  });

  it("decodes BPE without a clean-up of spaces, even where the file asks for one", () => {
    for (const clean_up_tokenization_spaces of [true, false, undefined]) {
      edit("tokenizer_config.json", { clean_up_tokenization_spaces });
      const asked = loadTokenizer(folder);
      for (const text of ["Hello , world ! it 's 5 .", " ,B!", "#### 1 ,000 .", "do n't ?", "I 'm , we 've ."]) {
        const ids = asked.encode(text);
        expect(asked.decode(ids)).toBe(text);
        // the text of any first tokens is a beginning of the whole
        for (let n = 0; n <= ids.length; n++) expect(text.startsWith(asked.decode(ids.subarray(0, n)))).toBe(true);
      }
    }
  });

  const turns = (end: string): string =>
    `{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}${end}{%- endfor %}`;
  it.each([
    ["<|im_end|>\n", "<|im_end|>"],
    ["<|endoftext|>", "<|endoftext|>"],
    ["{{ eos_token }}", "<|im_end|>"],
    ["\n<|endoftext|>", "<|endoftext|>"],
    ["{% if m.role == 'assistant' %}<|endoftext|>{% else %}<|im_end|>{% endif %}", "<|endoftext|>"],
    ["<|im_start|>", "<|im_start|>"],
  ])("whose template ends an answer with %j has this end of turn", (end, token) => {
    edit("tokenizer_config.json", { chat_template: turns(end) });
    const found = loadTokenizer(folder);
    expect(found.decode([templateTurnEnd(found)!])).toBe(token);
  });

  it.each(["", "\n", " Q:"])("whose template ends an answer with %j alone has none", (end) => {
    edit("tokenizer_config.json", { chat_template: turns("").replace("{%- endfor", `${end}{%- endfor`) });
    expect(templateTurnEnd(loadTokenizer(folder))).toBeUndefined();
  });

  it("without a chat template still encodes, and says what chat needs", () => {
    edit("tokenizer_config.json", { chat_template: undefined });
    const raw = loadTokenizer(folder);
    expect(raw.encode("5").length).toBe(1);
    expect(() => raw.chatPrompt([{ role: "user", content: "hi" }])).toThrow(/expected a chat template/);
  });

  it("whose template refuses the messages passes its reason on", () => {
    edit("tokenizer_config.json", { chat_template: "{{ raise_exception('no system role') }}" });
    expect(() => loadTokenizer(folder).chatPrompt([{ role: "user", content: "hi" }])).toThrow(
      /cannot render.*no system role/,
    );
  });

  it.each([2 ** 31, -1, 0.5, "7", null])("with the id %j is refused before a list of that length is made", (id) => {
    const json = JSON.parse(readFileSync(join(folder, "tokenizer.json"), "utf8")) as { model: { vocab: object } };
    edit("tokenizer.json", { model: { ...json.model, vocab: { ...json.model.vocab, odd: id } } });
    expect(() => loadTokenizer(folder)).toThrow(
      `tokenizer.json: expected ids from 0 to 2097152, found ${JSON.stringify(id)}`,
    );
  });

  it("with a setting that the library looks at while it encodes is refused by name", () => {
    edit("tokenizer.json", { pre_tokenizer: { type: "Split", pattern: { String: " " }, behavior: 7, invert: false } });
    expect(() => loadTokenizer(folder)).toThrow(/tokenizer\.json: expected a tokenizer.*cannot be used \(/);
  });

  it("without a tokenizer, or with a damaged one, is refused by name", () => {
    writeFileSync(join(folder, "tokenizer.json"), "{");
    expect(() => loadTokenizer(folder)).toThrow(/tokenizer\.json: expected JSON/);
    writeFileSync(join(folder, "tokenizer.json"), '{"model": {"type": "Nonsense"}}');
    expect(() => loadTokenizer(folder)).toThrow(/tokenizer\.json: expected a tokenizer/);
    rmSync(join(folder, "tokenizer.json"));
    expect(() => loadTokenizer(folder)).toThrow(/found no tokenizer\.json/);
  });
});
