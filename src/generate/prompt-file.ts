/** JSON lines of `infer --input`: an output that was cut goes on after its last whole line. */
import { createHash } from "node:crypto";
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
} from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.js";
import { issuesOf, jsonOf, parseJson, readBytes, readLines, writeWhole } from "../files.js";
import { messageList } from "../model/chat-messages.js";
import type { ChatMessage } from "../model/tokenizer.js";
import type { Answer } from "./prompting.js";

export interface PromptLine {
  /** Place among the prompts, from 0. */
  readonly index: number;
  /** "prompts.jsonl:7" */
  readonly where: string;
  readonly text: string;
}

/** A line of the output: answers, or why there are none. */
export type AnswerLine = {
  readonly index: number;
  /** As the input has it; absent where it has none. */
  readonly id?: string | number;
  readonly input_hash: string;
  /** Hash of the model's weights and everything else that shapes an answer. */
  readonly settings_hash: string;
} & ({ readonly prompt_tokens: number; readonly completions: readonly Answer[] } | { readonly error: string });

const promptSchema = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  prompt: z.string().optional(),
  messages: messageList.optional(),
  /** GSM8K's. */
  question: z.string().optional(),
});

const writtenSchema = z.looseObject({
  index: z.int(),
  input_hash: z.string(),
  settings_hash: z.string(),
  error: z.string().optional(),
});

export const shortHash = (text: string): string => createHash("sha256").update(text).digest("hex").slice(0, 16);

/** @throws UserError for a file that is missing or has no line */
export function readPromptLines(file: string): PromptLine[] {
  const found = existsSync(file);
  const lines = found ? readLines(file) : [];
  if (lines.length === 0)
    throw new UserError(
      `--input ${file}: expected JSON lines with prompt, messages or question, found ${found ? "an empty one" : "no such file"}.`,
    );
  return lines.map((line, index) => ({ index, ...line }));
}

/** @throws UserError for a line that holds no prompt */
export function parsePrompt({ where, text }: PromptLine): {
  readonly id?: string | number;
  readonly prompt: string | readonly ChatMessage[];
} {
  const parsed = promptSchema.safeParse(parseJson(text, where, "a prompt as a JSON object"));
  if (!parsed.success) throw new UserError(`${where}: expected a prompt as a JSON object.\n${issuesOf(parsed.error)}`);
  const { id, prompt, messages, question } = parsed.data;
  const given = [prompt, messages, question].filter((one) => one !== undefined);
  if (given.length !== 1)
    throw new UserError(`${where}: expected one of prompt, messages and question, found ${given.length || "none"}.`);
  return { prompt: given[0]!, ...(id !== undefined && { id }) };
}

export type AnswerFile = ReturnType<typeof openAnswerFile>;

/** Opens a new output file, or one to go on with. @throws UserError when it holds anything else */
export function openAnswerFile(
  file: string,
  input: string,
  lines: readonly PromptLine[],
  settingsHash: string,
  { overwrite, retryErrors = false }: { readonly overwrite: boolean; readonly retryErrors?: boolean },
) {
  if (resolve(file) === resolve(input))
    throw new UserError(`--output ${file}: expected another file than --input. Choose another name.`);
  mkdirSync(dirname(resolve(file)), { recursive: true });
  if (overwrite) rmSync(file, { force: true });
  const { kept, errors, mended } = keepWhole(file, input, lines, settingsHash);
  let next = kept;
  /** Lines that wait for one before them. */
  const early = new Map<number, AnswerLine>();
  const again = new Set(retryErrors ? errors.keys() : mended);
  const replaced = new Map<number, AnswerLine>();
  const handle = openSync(file, "a");
  return {
    kept,
    /** What is wrong with lines that have no answer, by index; each begins with its place. */
    errors,
    /** Whether a line is to be answered: a new or mended one, or an error to be tried again. */
    isOpen: ({ index }: PromptLine): boolean => index >= kept || again.has(index),
    /** Takes a line in any order. */
    add(line: AnswerLine): void {
      errors.delete(line.index);
      if ("error" in line) errors.set(line.index, line.error);
      (line.index < kept ? replaced : early).set(line.index, line);
      for (let due = early.get(next); due !== undefined; due = early.get(next)) {
        early.delete(next++);
        appendFileSync(handle, `${JSON.stringify(due)}\n`);
      }
    },
    close(): void {
      closeSync(handle);
      if (replaced.size === 0) return;
      const whole = readFileSync(file, "utf8").split("\n");
      writeWhole(file, whole.map((text, i) => (replaced.has(i) ? JSON.stringify(replaced.get(i)) : text)).join("\n"));
    },
  };
}

/** Cuts off a torn last line, and checks that the others answer the input's. */
function keepWhole(file: string, input: string, lines: readonly PromptLine[], settingsHash: string) {
  const errors = new Map<number, string>();
  /** Places of errors whose prompt is another by now. */
  const mended: number[] = [];
  if (!existsSync(file)) return { kept: 0, errors, mended };
  const bytes = readBytes(file);
  const end = bytes.lastIndexOf("\n") + 1;
  const written = bytes.subarray(0, end).toString("utf8").split("\n").slice(0, -1);
  const refuse = (line: number, found: string): never => {
    throw new UserError(`${file}:${line}: ${found}. Choose another --output, or give --overwrite.`);
  };
  for (const [i, text] of written.entries()) {
    const parsed = writtenSchema.safeParse(jsonOf(text));
    if (!parsed.success) return refuse(i + 1, "expected a line that infer wrote, found something else");
    const { index, input_hash, settings_hash, error } = parsed.data;
    const asked = lines[i];
    if (asked === undefined) return refuse(i + 1, `expected no more lines than ${input} has prompts (${lines.length})`);
    const same = input_hash === shortHash(asked.text);
    if (index !== i || (!same && error === undefined))
      return refuse(i + 1, `expected the answer to ${asked.where}, found that to another prompt`);
    if (settings_hash !== settingsHash)
      return refuse(
        i + 1,
        "expected an answer of this model and these settings, found one of others (the weights, --system, --raw, -n, --greedy, --temperature, --max-new-tokens, --seed, --dtype)",
      );
    if (error !== undefined) errors.set(i, error);
    if (!same) mended.push(i);
  }
  truncateSync(file, end);
  return { kept: written.length, errors, mended };
}
