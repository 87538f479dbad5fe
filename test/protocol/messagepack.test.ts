/** Forged MessagePack is refused before it is unpacked; whatever msgpackr packs is taken. */
import fc from "fast-check";
import { Packr } from "msgpackr";
import { describe, expect, it } from "vitest";
import { MAX_HEADER_BYTES, messagePackFault } from "../../src/protocol/messagepack.js";

const packr = new Packr({ useRecords: false });
const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

describe("messagePackFault", () => {
  it("takes all plain data", () => {
    const leaf = fc.oneof(
      fc.string({ maxLength: 300 }),
      fc.double(),
      fc.integer(),
      fc.maxSafeInteger(),
      fc.boolean(),
      fc.constant(null),
    );
    const data = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 5 },
        leaf,
        fc.array(tie("value"), { maxLength: 20 }),
        fc.dictionary(fc.string({ maxLength: 40 }), tie("value"), { maxKeys: 20 }),
      ),
    }));
    fc.assert(
      fc.property(data.value, (value) => {
        expect(messagePackFault(packr.pack(value))).toBeNull();
      }),
    );
    const long = { text: "x".repeat(70_000), list: Array.from({ length: 70_000 }, (_, i) => i) };
    expect(messagePackFault(packr.pack(long))).toBeNull();
  });

  it.each([
    ["an array of 200 million in five bytes", bytes(0xdd, 0x0c, 0x80, 0, 0)],
    ["a map of four billion", bytes(0xdf, 0xff, 0xff, 0xff, 0xff)],
    ["an array longer than its bytes", bytes(0xdc, 0, 5, 1, 2)],
    ["a text longer than its bytes", bytes(0xdb, 0x7f, 0, 0, 0, 65)],
    ["a length cut off", bytes(0xdd, 0, 0)],
    ["a number cut off", bytes(0xcb, 0, 0)],
    ["an extension", bytes(0xd4, 1, 1)],
    ["a long extension", bytes(0xc9, 0, 0, 0, 1, 5, 5)],
    ["the byte that is never used", bytes(0xc1)],
    ["nothing", bytes()],
    ["more than one value", bytes(1, 2)],
    ["a thousand levels", new Uint8Array(1_000).fill(0x91)],
    ["a header of more than a megabyte", new Uint8Array(MAX_HEADER_BYTES + 1)],
  ])("refuses %s", (_, forged) => expect(messagePackFault(forged)).toMatch(/^expected /));
});
