/** Files written whole or not at all, and JSON that is checked by a schema. */
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

/** Parses JSON text. @returns undefined when it is no JSON */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Reads JSON; `cure` is a sentence. @throws UserError when unreadable or unlike the schema */
export function readJson<T>(file: string, schema: z.ZodType<T>, cure = ""): T {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UserError(sentence(`${file}: expected JSON, found none that can be read (${messageOf(error)}).`, cure));
  }
  return checkedJson(json, schema, file, cure);
}

/**
 * Reads whole lines of JSONL (a missing file has none); a writer may be in the middle of the last.
 * @throws UserError naming the first line that is no JSON or does not fit the schema
 */
export function readJsonLines<T>(file: string, schema: z.ZodType<T>, cure = ""): T[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
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
  throw new UserError(sentence(`${where}: expected another content.\n${z.prettifyError(parsed.error)}`, cure));
}

const brief = (text: string): string => (text.length > 60 ? `${text.slice(0, 60)}…` : text);
const sentence = (text: string, cure: string): string => (cure === "" ? text : `${text} ${cure}`);
