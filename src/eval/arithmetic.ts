/**
 * Computes a solution's equations again: `5 × 12 = 60`, `$1,200 * 20% = $240`. It leaves out what
 * it cannot judge (unknowns, sums of different units), so an equation listed as wrong is wrong.
 */
import { removeAnnotations } from "../tasks/gsm8k.js";

export type Operator = "+" | "−" | "×" | "÷";

export interface Equation {
  /** As written, white space tidied. */
  readonly text: string;
  /** Operations of both sides, in order. */
  readonly operations: readonly Operator[];
  readonly left: number;
  readonly right: number;
  readonly holds: boolean;
}

type TokenKind = "number" | "op" | "equals" | "open" | "close" | "percent" | "currency" | "word" | "other";
type Token = ReturnType<typeof tokens>[number];

const tokenPattern =
  /(?<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d+)?|\.\d+)|(?<op>[-+*/×÷·])|(?<equals>[=≈])|(?<open>\()|(?<close>\))|(?<percent>%)|(?<currency>[$€£])|(?<word>\p{L}+)|(?<space>[ \t]+)|(?<other>[^])/gu;

/** Words behind a number that change its value: not to be judged. */
const scaleWords = /^(?:dozens?|hundreds?|thousands?|millions?|billions?|k|half|halves|cents?|percent)$/i;
/** Words that join sentences, so they are no unit. */
const joiningWords = /^(?:and|or|then|so|plus|minus|times|is|are|equals?)$/i;

/** LaTeX and typographic signs as plain ones; bullets and bold marks removed. Lines stay lines. */
function plain(text: string): string {
  return removeAnnotations(text)
    .replaceAll("**", "")
    .replace(/^[ \t]*[-*•][ \t]+/gm, "")
    .replace(/\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}/g, "(($1)/($2))")
    .replace(/\\(?:text|mathrm)\{([^{}]*)\}/g, " $1 ")
    .replace(/\\times|\\cdot/g, "*")
    .replaceAll("\\div", "/")
    .replaceAll("\\approx", "≈")
    .replace(/\\([$%])/g, "$1")
    .replaceAll("{,}", ",")
    .replace(/\\[()[\],! ]/g, " ")
    .replace(/[−–]/g, "-");
}

function tokens(text: string) {
  return Array.from(text.matchAll(tokenPattern)).flatMap((match) => {
    const [kind] = Object.entries(match.groups!).find(([, value]) => value !== undefined)!;
    if (kind === "space") return [];
    const end = match.index + match[0].length;
    // `6 x 7`, but not the x of `2x - 5`
    const isTimes = /^[xX]$/.test(match[0]) && /^\s*[\d.$€£(]/.test(text.slice(end));
    const [sort, sign] = isTimes ? ["op" as const, "*"] : [kind as TokenKind, match[0]];
    return [{ kind: sort, text: sign, start: match.index, end }];
  });
}

/** A value with percent signs read as hundredths, and as bare numbers (`10 / 50 * 100 = 20%`). */
interface Value {
  readonly readings: readonly [hundredths: number, bare: number];
  /** Singular; "" without one. */
  readonly unit: string;
  /** Decimal places, when it is a number alone. */
  readonly decimals: number;
}

type Side = NonNullable<ReturnType<Parser["side"]>>;

/** Recursive descent over tokens. Each method returns undefined where nothing can be judged. */
class Parser {
  readonly #list: readonly Token[];
  #operations: Operator[] = [];
  #first: Value | undefined;

  constructor(list: readonly Token[]) {
    this.#list = list;
  }

  side(at: number) {
    this.#operations = [];
    this.#first = undefined;
    const parsed = this.#sum(at);
    if (parsed === undefined) return undefined;
    // `1 / 4 * 100% = 25` is meant in percent
    const hundred = this.#list
      .slice(at, parsed[1])
      .some((token, i, side) => token.kind === "percent" && side[i - 1]?.text === "100");
    return { value: parsed[0], first: this.#first!, operations: this.#operations, hundred, next: parsed[1] };
  }

  #sum(at: number): [Value, number] | undefined {
    let left = this.#product(at);
    while (left !== undefined) {
      const sign = this.#list[left[1]];
      if (sign?.kind !== "op" || !/[-+]/.test(sign.text)) return left;
      this.#operations.push(sign.text === "+" ? "+" : "−");
      const right = this.#product(left[1] + 1);
      const [a, b]: [Value, Value | undefined] = [left[0], right?.[0]];
      // "1 hour + 30 minutes": adding unlike things, not to be judged
      if (right === undefined || b === undefined || (a.unit !== "" && b.unit !== "" && a.unit !== b.unit))
        return undefined;
      const factor = sign.text === "+" ? 1 : -1;
      left = [combine(a, b, (x, y) => x + factor * y, a.unit || b.unit), right[1]];
    }
    return left;
  }

  #product(at: number): [Value, number] | undefined {
    let left = this.#factor(at);
    while (left !== undefined) {
      const sign = this.#list[left[1]];
      // "20% of 50", but not "5 apples for a total of 9"
      const isOf = sign?.text === "of" && this.#list[left[1] - 1]!.kind !== "word";
      const times = isOf || (sign?.kind === "op" && /[*×·]/.test(sign.text));
      const over = sign?.kind === "op" && /[/÷]/.test(sign.text);
      if (!times && !over) return left;
      this.#operations.push(times ? "×" : "÷");
      const right = this.#factor(left[1] + 1);
      if (right === undefined) return undefined;
      left = [combine(left[0], right[0], (x, y) => (times ? x * y : x / y), ""), right[1]];
    }
    return left;
  }

  #factor(at: number): [Value, number] | undefined {
    let i = at;
    let sign = 1;
    while (this.#list[i]?.kind === "currency" || this.#list[i]?.text === "-")
      if (this.#list[i++]!.text === "-") sign = -sign;
    let readings: [number, number];
    let decimals = 0;
    if (this.#list[i]?.kind === "open") {
      const inner = this.#sum(i + 1);
      if (inner === undefined || this.#list[inner[1]]?.kind !== "close") return undefined;
      readings = [...inner[0].readings];
      i = inner[1] + 1;
    } else if (this.#list[i]?.kind === "number") {
      const { text } = this.#list[i++]!;
      decimals = text.split(".")[1]?.length ?? 0;
      const number = Number(text.replaceAll(",", ""));
      readings = [number, number];
    } else return undefined;
    if (this.#list[i]?.kind === "percent") {
      readings = [readings[0] / 100, readings[1]];
      decimals += 2;
      i++;
    }
    const unit = this.#unit(i);
    if (unit === undefined) return undefined;
    const value = { readings: [sign * readings[0], sign * readings[1]] as const, unit: unit[0], decimals };
    this.#first ??= value;
    return [value, unit[1]];
  }

  /** A unit of up to three words, such as `miles / hour`; undefined when it scales the number. */
  #unit(at: number): [unit: string, next: number] | undefined {
    const words: string[] = [];
    let i = at;
    // `2x`, `(3/4)e`: an unknown
    if (this.#list[at]?.kind === "word" && this.#list[at].start === this.#list[at - 1]!.end) return undefined;
    while (words.length < 3) {
      const slash = words.length > 0 && this.#list[i]?.text === "/" ? 1 : 0;
      const word = this.#list[i + slash];
      if (word?.kind !== "word" || word.text === "of" || joiningWords.test(word.text)) break;
      if (scaleWords.test(word.text) || word.text.length === 1) return undefined;
      words.push(word.text.toLowerCase().replace(/s$/, ""));
      i += slash + 1;
    }
    return [words[0] ?? "", i];
  }
}

function combine(a: Value, b: Value, operation: (x: number, y: number) => number, unit: string): Value {
  const [x, y] = [a.readings, b.readings];
  return { readings: [operation(x[0], y[0]), operation(x[1], y[1])], unit, decimals: 0 };
}

/** The equations of a text that hold an operation and can be judged, in order. */
export function equationsOf(text: string): Equation[] {
  const source = plain(text);
  const list = tokens(source);
  const parser = new Parser(list);
  const found: Equation[] = [];
  for (let i = 0; i < list.length;) {
    // a tail of something not understood: y + 3 = 7, 1 1/2 * 4 = 6, 7:50 + 30 = 80
    let left = isTail(list, i) ? undefined : parser.side(i);
    let [next, from, judged] = [i + 1, i, false];
    while (left !== undefined && list[left.next]?.kind === "equals") {
      const sign = list[left.next]!.text;
      const right = parser.side(left.next + 1);
      if (right === undefined || /^[-+*/×÷·(:\d]/.test(list[right.next]?.text ?? "")) break;
      judged ||= left.operations.length > 0;
      if (judged) {
        const holds = agrees(left, right.value, sign) || agrees(left, right.first, sign);
        const shown = source.slice(list[from]!.start, list[right.next - 1]!.end).replace(/\s+/g, " ");
        const operations = [...left.operations, ...right.operations];
        found.push({ text: shown, operations, left: left.value.readings[0], right: right.value.readings[0], holds });
      }
      [from, left, next] = [left.next + 1, right, right.next];
    }
    i = next;
  }
  return found;
}

function isTail(list: readonly Token[], at: number): boolean {
  const before = list[at - 1];
  if (before === undefined) return false;
  if (before.text === ":") return before.end === list[at]!.start && list[at - 2]?.kind === "number";
  return before.kind === "op" || before.kind === "number" || before.kind === "close";
}

/** Equal as far as the right side's decimals go; a quotient, and all behind `≈`, may be rounded. */
function agrees({ value: left, operations, hundred }: Side, right: Value, sign: string): boolean {
  const rounded = sign === "≈" || (operations.includes("÷") && !Number.isInteger(left.readings[0]));
  const slack = right.decimals > 0 || rounded ? 10 ** -right.decimals : 0;
  const close = (value: number, claimed: number, slack: number): boolean => {
    const gap = Math.abs(value - claimed);
    return gap <= 1e-9 * Math.max(1, Math.abs(value), Math.abs(claimed)) || gap < slack;
  };
  const inPercent = hundred || right.readings[0] !== right.readings[1];
  return (
    close(left.readings[0], right.readings[0], slack) ||
    (inPercent && close(left.readings[1], right.readings[1], 100 * slack))
  );
}
