/** Files written whole or not at all, and JSON that is checked by a schema. */
import { isUtf8 } from "node:buffer";
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { z } from "zod";
import { UserError, messageOf } from "./errors.js";

/** Writes a file that appears under its name only when it is whole and on disk. */
export function writeWhole(file: string, content: string | Uint8Array | Iterable<Uint8Array>): void {
  const temporary = `${file}.tmp-${process.pid}-${randomBytes(4).toString("hex")}`;
  try {
    const fd = openSync(temporary, "w");
    try {
      if (typeof content === "string") writeFully(fd, Buffer.from(content));
      else if (content instanceof Uint8Array) writeFully(fd, content);
      else for (const part of content) writeFully(fd, part);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
  fsyncPath(dirname(file));
}

/** Writes a value as indented JSON, whole or not at all. */
export function writeJson(file: string, value: unknown): void {
  writeWhole(file, `${JSON.stringify(value, null, 2)}\n`);
}

/** Writes all bytes in as many calls as it takes; `position` null means the current one. */
export function writeFully(fd: number, bytes: NodeJS.ArrayBufferView, position: number | null = null): void {
  for (let written = 0; written < bytes.byteLength;) {
    const at = position === null ? null : position + written;
    written += writeSync(fd, bytes, written, bytes.byteLength - written, at);
  }
}

/** Flushes a file or a folder's entries to disk. */
export function fsyncPath(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Reads a file whole. @throws UserError where a folder stands in its place */
export function readBytes(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EISDIR") throw error;
    throw new UserError(`${file}: expected a file, found a folder. Move it away.`, { cause: error });
  }
}

/** How files begin that are no text. */
const signatures: readonly (readonly [name: string, start: string, cure: string])[] = [
  ["UTF-16", "\xff\xfe", "Convert it: iconv -f UTF-16 -t UTF-8"],
  ["UTF-16", "\xfe\xff", "Convert it: iconv -f UTF-16 -t UTF-8"],
  ["a gzip archive", "\x1f\x8b", "Unpack it: gunzip"],
  ["a zstd archive", "\x28\xb5\x2f\xfd", "Unpack it: unzstd"],
  ["a zip archive", "PK\x03\x04", "Unpack it: unzip"],
  ["a Parquet file", "PAR1", "Write its rows as lines of JSON."],
  ["a git-LFS pointer", "version https://git-lfs", "Fetch the file that it stands for: git lfs pull"],
];

/** Reads UTF-8 without a byte order mark. @throws UserError naming what other files are */
export function readText(file: string): string {
  const bytes = readBytes(file);
  const other = signatures.find(([, start]) => bytes.subarray(0, start.length).toString("latin1") === start);
  if (other !== undefined) throw new UserError(`${file}: expected text in UTF-8, found ${other[0]}. ${other[2]}`);
  if (bytes.includes(0))
    throw new UserError(`${file}: expected text in UTF-8, found zero bytes: another encoding, or no text. Convert it.`);
  if (isUtf8(bytes)) return bytes.toString("utf8").replace(/^\uFEFF/, "");
  let [line, start] = [1, 0];
  for (let end = bytes.indexOf("\n"); end >= 0 && isUtf8(bytes.subarray(start, end)); line++) {
    start = end + 1;
    end = bytes.indexOf("\n", start);
  }
  throw new UserError(
    `${file}:${line}: expected text in UTF-8, found bytes of another encoding. Convert it, from Latin-1 say: iconv -f LATIN1 -t UTF-8`,
  );
}

/** The lines of a text file that are not blank, and where each stands: "FILE:7". */
export function readLines(file: string): { where: string; text: string }[] {
  const lines = readText(file).split("\n");
  return lines.flatMap((text, i) => (text.trim() === "" ? [] : [{ where: `${file}:${i + 1}`, text }]));
}

/** Lists and objects inside one another; deeper ones would exhaust the stack of who walks them. */
const MAX_LEVELS = 100;

const isDeeper = (value: unknown, levels: number): boolean =>
  typeof value === "object" &&
  value !== null &&
  (levels === 0 || Object.values(value).some((one) => isDeeper(one, levels - 1)));

function shallowJson(text: string): unknown {
  const json: unknown = JSON.parse(text);
  if (isDeeper(json, MAX_LEVELS)) throw new Error(`more than ${MAX_LEVELS} levels of lists and objects`);
  return json;
}

/** Parses what stands at `where`. @throws UserError with the reason when it is no JSON */
export function parseJson(text: string, where: string, expected: string): unknown {
  return parsed(() => text, where, expected, "");
}

function parsed(read: () => string, where: string, expected: string, cure: string): unknown {
  try {
    return shallowJson(read());
  } catch (error) {
    if (error instanceof UserError) throw error;
    const reason = messageOf(error);
    throw new UserError(sentence(`${where}: expected ${expected}, found none that can be read (${reason}).`, cure));
  }
}

/** Parses JSON text. @returns undefined when it is no JSON */
export function jsonOf(text: string): unknown {
  try {
    return shallowJson(text);
  } catch {
    return undefined;
  }
}

/** Reads JSON; `cure` is a sentence. @throws UserError when unreadable or unlike the schema */
export function readJson<T>(file: string, schema: z.ZodType<T>, cure = "", expected = "JSON"): T {
  const json = parsed(() => readText(file), file, expected, cure);
  return checkedJson(json, schema, file, cure);
}

/**
 * Reads whole lines of JSONL (a missing file has none); a writer may be in the middle of the last.
 * @throws UserError naming the first line that is no JSON or does not fit the schema
 */
export function readJsonLines<T>(file: string, schema: z.ZodType<T>, cure = ""): T[] {
  if (!existsSync(file)) return [];
  const lines = readBytes(file).toString("utf8").split("\n").slice(0, -1);
  return lines.map((line, i) => {
    const where = `${file}:${i + 1}`;
    const json = jsonOf(line);
    if (json === undefined) throw new UserError(sentence(`${where}: expected JSON, found "${brief(line)}".`, cure));
    return checkedJson(json, schema, where, cure);
  });
}

/** Checks a value that was read at `where`. @throws UserError saying what does not fit */
export function checkedJson<T>(json: unknown, schema: z.ZodType<T>, where: string, cure = ""): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new UserError(sentence(`${where}: expected another content.\n${issuesOf(parsed.error)}`, cure));
}

/** What does not fit, two lines for each; of many the first ones. */
export function issuesOf(error: z.ZodError): string {
  const { issues } = error;
  const rest = issues.length - MOST_ISSUES;
  const first = z.prettifyError({ issues: issues.slice(0, MOST_ISSUES) });
  return rest > 0 ? `${first}\n… (${rest} more)` : first;
}

const MOST_ISSUES = 8;
const brief = (text: string): string => (text.length > 60 ? `${text.slice(0, 60)}…` : text);
const sentence = (text: string, cure: string): string => (cure === "" ? text : `${text} ${cure}`);
