import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { TextStream } from "../../src/generate/text-stream.js";
import { loadTokenizer } from "../../src/model/tokenizer.js";

const tokenizer = loadTokenizer(fileURLToPath(new URL("../../assets/starter", import.meta.url)));
/** The starter's vocabulary is byte-level: "é" is two tokens. */
const encode = (text: string) => tokenizer.encode(text, { addSpecial: false });

function streamed(ids: Iterable<number>, stops: string[] = []) {
  const stream = new TextStream(tokenizer, stops);
  const pieces: string[] = [];
  for (const id of ids) {
    stream.push([id]);
    pieces.push(stream.take());
  }
  stream.end();
  pieces.push(stream.take(true));
  return { stream, pieces };
}

describe("text of tokens as they come", () => {
  test("is the text of all of them, in pieces that never change, whatever the tokens", () => {
    const id = fc.integer({ min: 0, max: tokenizer.vocabSize - 1 });
    fc.assert(
      fc.property(fc.array(id, { maxLength: 40 }), (ids) => {
        expect(streamed(ids).pieces.join("")).toBe(tokenizer.decode(ids));
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        const ids = encode(text);
        expect(streamed(ids).pieces.join("")).toBe(tokenizer.decode(ids));
      }),
    );
  });

  test("a character spread over tokens is shown when it is whole", () => {
    const ids = encode("é");
    expect(ids.length).toBe(2);
    expect(streamed(ids).pieces).toEqual(["", "é", ""]);
    expect(streamed(ids.subarray(0, 1)).pieces).toEqual(["", "\uFFFD"]);
  });

  test("ends before the first stop string, and never shows a part of one", () => {
    const ids = encode("3+4=7\n#### 7");
    const { stream, pieces } = streamed(ids, ["####", "unseen"]);
    expect(stream.text).toBe("3+4=7\n");
    expect(pieces.join("")).toBe("3+4=7\n");
    const needed = stream.stoppedAt!;
    expect(tokenizer.decode(ids.subarray(0, needed))).toContain("####");
    expect(tokenizer.decode(ids.subarray(0, needed - 1))).not.toContain("####");
  });

  test("what only looked like the beginning of a stop string is shown after all", () => {
    const { pieces, stream } = streamed(encode("a## b"), ["###"]);
    expect(pieces.join("")).toBe("a## b");
    expect(stream.stoppedAt).toBeUndefined();
  });
});
