/** Damaged inputs as a function of a seed and their number, and the memory that they may cost. */
import { setTimeout } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Draw } from "../../src/math/random.js";

const isFull = process.env["CHAOS"] === "full";
/** CHAOS=full takes the long form. */
export const sized = (short: number, long: number): number => (isFull ? long : short);

const seed = Number(process.env["FC_SEED"] ?? 1);
export const drawOf = (...key: number[]): Draw => new Draw(seed, ...key);
/** Names an input, so that a failure says how to see it again. */
export const inputName = (number: number, what: string): string => `FC_SEED=${seed}, input ${number} (${what})`;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
/** MB of this process that are left once the garbage is gone. */
export async function residentMegabytes(): Promise<number> {
  for (let times = 0; times < 3; times++) {
    collect();
    await setTimeout(100); // pages go back to the system between turns
  }
  return process.memoryUsage().rss / 1e6;
}

/** Random bytes, some of them text. */
export function randomBytes(draw: Draw, most: number): Buffer {
  return Buffer.from(Array.from({ length: draw.int(0, most) }, () => draw.int(0, 255)));
}

/** Flips, cuts, inserts, doubles or overwrites some bytes. */
export function damageBytes(draw: Draw, bytes: Uint8Array): Buffer {
  const copy = Buffer.from(bytes);
  const at = draw.int(0, Math.max(0, copy.length - 1));
  const end = Math.min(copy.length, at + draw.int(1, 64));
  switch (draw.int(0, 5)) {
    case 0:
      return copy.subarray(0, at);
    case 1:
      return Buffer.concat([copy.subarray(0, at), randomBytes(draw, 16), copy.subarray(at)]);
    case 2:
      return Buffer.concat([copy.subarray(0, end), copy.subarray(at)]);
    case 3:
      copy.fill(draw.pick([0, 0x20, 0x5b, 0x7f, 0xff]), at, Math.min(copy.length, at + draw.pick([1, 4, 8])));
      return copy;
    default:
      if (copy.length === 0) return copy;
      for (let n = draw.int(1, 8); n > 0; n--) copy[draw.int(0, copy.length - 1)]! ^= 1 << draw.int(0, 7);
      return copy;
  }
}

const odd: readonly unknown[] = [
  null,
  true,
  "",
  "x",
  "__proto__",
  "\ud800",
  "y".repeat(20_000),
  0,
  -0,
  -1,
  0.5,
  1e8,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  1e308,
  -1e30,
  NaN,
  Infinity,
  [],
  {},
  [[[[]]]],
  [null],
  { a: { b: {} } },
];

/** A copy of plain data in which one place holds something else, is gone, or has company. */
export function damageData(draw: Draw, value: unknown): unknown {
  const isParent = typeof value === "object" && value !== null && Object.keys(value).length > 0;
  if (!isParent || draw.unit() < 0.1) return draw.pick(odd);
  const copy = Array.isArray(value) ? [...(value as unknown[])] : { ...value };
  const key = draw.pick(Object.keys(copy));
  const place = copy as Record<string, unknown>;
  const choice = draw.unit();
  if (choice < 0.1) delete place[key];
  else if (choice < 0.2) place[draw.pick(["surplus", "constructor", "toString", "0"])] = draw.pick(odd);
  else if (choice < 0.4) place[key] = draw.pick(odd);
  else place[key] = damageData(draw, place[key]);
  return copy;
}

const text = (value: unknown): Buffer => Buffer.from(JSON.stringify(value) ?? "");

/** A file that is no longer what it was; null = a folder stands in its place. */
export function damageFile(draw: Draw, bytes: Buffer): { what: string; bytes: Buffer | null } {
  const choice = draw.unit();
  if (choice < 0.45) return { what: "damaged bytes", bytes: damageBytes(draw, bytes) };
  if (choice < 0.85) return { what: "damaged values", bytes: damageJson(draw, bytes) ?? damageBytes(draw, bytes) };
  const deep = (open: string, close: string): Buffer => Buffer.from(open.repeat(100_000) + close.repeat(100_000));
  const whole: readonly (readonly [string, () => Buffer | null])[] = [
    ["a folder", () => null],
    ["nothing", () => Buffer.alloc(0)],
    ["a blank line", () => Buffer.from("\n")],
    ["a byte order mark", () => Buffer.concat([Buffer.from("\ufeff"), bytes])],
    ["UTF-16", () => Buffer.from(`\ufeff${bytes.toString("utf8")}`, "utf16le")],
    ["a gzip archive", () => Buffer.concat([Buffer.from([0x1f, 0x8b]), bytes])],
    ["100,000 lists", () => deep("[", "]")],
    ["100,000 objects", () => deep('{"a":', "}").fill("1", 500_000, 500_001)],
    ["100,000 open lists", () => deep("[", "")],
    [
      "a list deep inside",
      () =>
        Buffer.from(
          bytes
            .toString("utf8")
            .replace(/[[{]/, (open) => `${open === "{" ? '{"a":' : "["}${"[".repeat(100_000)}${"]".repeat(100_000)},`),
        ),
    ],
    ["a doubled key", () => Buffer.from(bytes.toString("utf8").replace(/\{\s*("[^"]*"):/, "{$1:null,$1:"))],
    ["__proto__", () => Buffer.from(bytes.toString("utf8").replace("{", '{"__proto__":{"a":1},'))],
    ["a number too large", () => Buffer.from(bytes.toString("utf8").replace(/:\s*\d+/, ": 1e999"))],
    ["null", () => text(null)],
    ["a list", () => text([])],
    ["an object", () => text({})],
    ["a text", () => text("x")],
    ["a number", () => text(1e8)],
    ["ten thousand lines", () => Buffer.from("{}\n".repeat(10_000))],
  ];
  const [what, make] = draw.pick(whole);
  return { what, bytes: make() };
}

/** Damages what JSON, a line of JSONL or a safetensors header says; null for any other file. */
function damageJson(draw: Draw, bytes: Buffer): Buffer | null {
  const damaged = (json: string): string | null => {
    try {
      return JSON.stringify(damageData(draw, JSON.parse(json))) ?? "";
    } catch {
      return null;
    }
  };
  const headerEnd = bytes.length < 8 ? 0n : 8n + bytes.readBigUInt64LE();
  if (headerEnd > 8n && headerEnd <= bytes.length) {
    const header = damaged(bytes.subarray(8, Number(headerEnd)).toString("utf8"));
    if (header === null) return null;
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
    return Buffer.concat([length, Buffer.from(header), bytes.subarray(Number(headerEnd))]);
  }
  const whole = damaged(bytes.toString("utf8"));
  if (whole !== null) return Buffer.from(whole);
  const lines = bytes.toString("utf8").split("\n");
  const at = draw.int(0, lines.length - 1);
  const line = damaged(lines[at]!);
  return line === null ? null : Buffer.from(lines.toSpliced(at, 1, line).join("\n"));
}
