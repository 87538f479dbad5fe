/**
 * The number a text answers with, and whether it is the right one. Numbers are compared as numbers:
 * 18, 18.00 and $18 are equal.
 *
 * One rule, meant for training: the answer is in the last `#### ` line, else in the last
 * `\boxed{}`, which must hold exactly one number. Currency, thousands commas, a unit, a percent
 * sign, bold marks and a full stop may stand around it. A number anywhere else does not count: a
 * model must not be rewarded for mentioning the answer. 20% is 20, as in GSM8K's answers.
 */
import type { FinishReason, Outcome } from "../protocol/messages.js";

/** What a text answers. */
export interface Extracted {
  readonly value: number;
  /** True when the text ends with the number: if it was cut there, digits may be missing. */
  readonly atEnd: boolean;
}

/** The answer of a text; undefined when none can be read. */
export function extractAnswer(text: string): Extracted | undefined {
  const marker = text.lastIndexOf("####");
  if (marker >= 0) {
    const rest = text.slice(marker + 4);
    const line = rest.split("\n", 1)[0] ?? "";
    const value = onlyNumber(line);
    if (value !== undefined) return { value, atEnd: line === rest && /[\d.,]$/.test(line) };
  }
  const boxed = lastBoxed(text);
  const value = boxed === undefined ? undefined : onlyNumber(boxed);
  return value === undefined ? undefined : { value, atEnd: false };
}

/** The right answer in a data set's `answer`: its `#### n`, or the whole text if it is a number. */
export function goldAnswer(answer: string): number | undefined {
  return extractAnswer(answer)?.value ?? onlyNumber(answer);
}

/** Equal up to rounding of decimals (relative 1e-9). */
export function sameNumber(a: number, b: number): boolean {
  return Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(a), Math.abs(b));
}

/**
 * Says what became of a completion. `truncated`: it ran out of tokens before its answer was
 * complete. `unparsed`: it ended without an answer that can be read. Else `correct` or `wrong`.
 */
export function outcomeOf(text: string, finishReason: FinishReason, gold: string): Outcome {
  const found = extractAnswer(text);
  if (finishReason === "length" && (found === undefined || found.atEnd)) return "truncated";
  if (found === undefined) return "unparsed";
  const right = goldAnswer(gold);
  return right !== undefined && sameNumber(found.value, right) ? "correct" : "wrong";
}

/** True when the text's last line is `#### n`, and it is the only such mark. */
export function isWellFormed(text: string): boolean {
  return text.split("####").length === 2 && /(^|\n)#### -?\$?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?\s*$/.test(text);
}

/** A sign and currency, then digits with right thousands commas, or a decimal fraction. */
const numberPattern = /^([-−+]?)\s*(?:\\?\$|[€£])?\s*([-−]?)(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)/;

/** The number a line holds when it holds exactly one. */
function onlyNumber(line: string): number | undefined {
  const bare = line.replaceAll("**", "").replace(/^[\s:=]+/, "");
  const match = numberPattern.exec(bare);
  if (match === null) return undefined;
  // 12/5, 3 * 4 = 12, 1,2 or a date: more than one number, so not an answer.
  if (/\d/.test(bare.slice(match[0].length))) return undefined;
  const [, sign = "", innerSign = "", digits = ""] = match;
  const value = Number(digits.replaceAll(",", ""));
  return /[-−]/.test(sign + innerSign) ? -value : value;
}

/** What stands in the last `\boxed{…}`, braces matched. */
function lastBoxed(text: string): string | undefined {
  const open = text.lastIndexOf("\\boxed{");
  if (open < 0) return undefined;
  const start = open + "\\boxed{".length;
  let depth = 1;
  for (let i = start; i < text.length; i++) {
    if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0) return text.slice(start, i);
  }
  return undefined;
}
