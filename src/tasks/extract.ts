/**
 * The number a text answers with, and whether it is the right one. Numbers are compared as numbers:
 * 18, 18.00 and $18 are equal.
 *
 * One rule, meant for training: the answer is in the last `#### ` line, else in the last
 * `\boxed{}`, which must hold exactly one number. Currency, thousands marks, a unit, a percent
 * sign, bold marks and a full stop may stand around it. What follows it must not change its value:
 * "3 million" cannot be read. A number anywhere else does not count: a model must not be rewarded
 * for mentioning the answer. 20% is 20, as in GSM8K's answers.
 */
import type { FinishReason, Outcome } from "../protocol/messages.js";

/** What a text answers. */
export interface Extracted {
  /** Decimal notation without superfluous zeros: equal integers are equal texts. */
  readonly value: string;
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
    if (value !== undefined) return { value, atEnd: line === rest && /[\d.,\s]$/.test(line) };
  }
  const boxed = lastBoxed(text);
  const value = boxed === undefined ? undefined : onlyNumber(boxed);
  return value === undefined ? undefined : { value, atEnd: false };
}

/** The right answer in a data set's `answer`: its `#### n`, or the whole text if it is a number. */
export function goldAnswer(answer: string): string | undefined {
  return extractAnswer(answer)?.value ?? onlyNumber(answer);
}

/** Integers are equal exactly; decimals up to rounding (relative 1e-9, at most 1e-6). */
export function sameNumber(a: string, b: string): boolean {
  const places = Math.max(...[a, b].map((text) => (text.split(".")[1] ?? "").length));
  if (a === b || places === 0) return a === b;
  const [x, y] = [a, b].map((text) => {
    const [whole = "", fraction = ""] = text.split(".");
    return BigInt(whole + fraction.padEnd(places, "0"));
  }) as [bigint, bigint];
  const sizes = [x, y].map((n) => (n < 0n ? -n : n));
  const unit = 10n ** BigInt(places);
  const scale = [unit, ...sizes].reduce((largest, n) => (n > largest ? n : largest));
  const difference = (x > y ? x - y : y - x) * 10n ** 9n;
  return difference <= scale && difference <= 1000n * unit;
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

/** A sign and currency, then digits with right thousands marks, or a decimal fraction. */
const numberPattern =
  /^([-−–+]?)\s*(?:\\?\$|[€£])?\s*([-−–]?)(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:\s\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)/;

/** What makes another number of the one before it: a scale, a fraction, a factor, a power. */
const changesValue = [
  /^(?:hundred|thousand|mille|(?:m|b|tr|quadr)ill?i(?:on|ard|ón)|mil|mio|mn|bn|lakh|crore|dozen|hal[fv]|and)(?:e?[sn])?(?!\p{L})/u,
  /^(?:third|(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand|million)th)s(?!\p{L})|\band (?:a|one) (?:half|third|quarter)/u,
  /^(?:[kxyzneiKMBT]|pi|squared|cubed|factorial)(?!\p{L})|^[百千万萬億亿兆+*×·÷√π!‰^]|^\\(?:pi|sqrt|d?frac|cdot|times|div|over)/u,
];

/** The number a line holds when it holds exactly one. */
function onlyNumber(line: string): string | undefined {
  const bare = line
    .replaceAll("\\!", "")
    .replaceAll("{,}", ",")
    .replace(/\*\*|\\[,; ]|~/g, " ")
    .replace(/\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}/g, "$1")
    .replace(/^[\s:=]+/, "");
  const match = numberPattern.exec(bare);
  if (match === null) return undefined;
  // m^2 and m² are units, ^\circ is that of an angle
  const rest = bare.slice(match[0].length).replace(/(?<=\p{L})(?:\^\{?[23]\}?|[²³₀-₉])|^\^\{?\\circ\}?/gu, "");
  // 12/5, 3 * 4 = 12, 1,2 or a date: more than one number, so not an answer.
  const next = rest.replace(/^[-\s{]+/, "").replace(/^\p{L}{2,}/u, (word) => word.toLowerCase());
  if (/\p{N}/u.test(rest) || changesValue.some((pattern) => pattern.test(next))) return undefined;
  const [, sign = "", innerSign = "", digits = ""] = match;
  const [whole = "", fraction = ""] = digits.replace(/[,\s]/g, "").split(".");
  const decimals = fraction.replace(/0+$/, "");
  const value = (whole.replace(/^0+/, "") || "0") + (decimals && `.${decimals}`);
  return value !== "0" && /[-−–]/.test(sign + innerSign) ? `-${value}` : value;
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
