/** How Qwen2.5-Math reads an answer: QwenLM/Qwen2.5-Math a45202b, `parser.py` and `grader.py`. */
export interface Reading {
  /** The answer it sees, as it compares it; undefined when it sees none. */
  readonly answer: string | undefined;
  readonly correct: boolean;
}

/**
 * Reads the last `boxed`, else what follows "answer is", else the last number. Equal is within
 * 1e-4, or that times or over 100. The answer is theirs to the character. The judgement is simpler:
 * no computer algebra, no numbers in words, and any words behind a number are its unit.
 */
export function qwenBoxed(text: string, gold: string): Reading {
  const answer = qwenAnswer(text);
  const [found, right] = [qwenNormalized(answer), qwenNormalized(gold.split("####")[1] ?? "")];
  return { answer: answer === "" ? undefined : answer, correct: qwenEqual(found, right) };
}

/** White space as Python's str.strip() and `\s` define it. */
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const OUTER_SPACE = new RegExp(`^${SPACE}+|${SPACE}+$`, "g");
const LINE_BREAKS = new RegExp(`\\n${SPACE}*`, "g");
const strip = (text: string): string => text.replace(OUTER_SPACE, "");

/** extract_answer of parser.py, before its strip_string. */
export function qwenAnswer(completion: string): string {
  const text = completion.replaceAll("ки", "");
  const after = (mark: string): string => strip(text.slice(text.lastIndexOf(mark) + mark.length));
  let answer: string;
  if (text.includes("final answer is $") && text.includes("$. I hope")) {
    const start = text.indexOf("final answer is $") + "final answer is $".length;
    answer = strip(text.slice(start).split("$. I hope", 1)[0]!);
  } else if (text.includes("boxed")) {
    answer = boxContent(text.slice(text.lastIndexOf("boxed") + "boxed".length));
  } else if (text.includes("he answer is")) {
    answer = after("he answer is");
  } else if (text.includes("final answer is")) {
    answer = after("final answer is");
  } else if (text.includes("答案是")) {
    answer = strip(strip(text.split("答案是")[1]!).split("\n\n", 1)[0]!);
  } else {
    answer =
      text
        .replaceAll(",", "")
        .match(/-?\p{Nd}*\.?\p{Nd}+/gu)
        ?.at(-1) ?? "";
  }
  return answer.replace(LINE_BREAKS, "").replace(/^:/, "").replace(/\.$/, "").replace(/\/$/, "");
}

/** The content of the braces after `boxed`, or of the rest; without braces, all before a `$`. */
function boxContent(rest: string): string {
  if (!rest.startsWith("{")) return strip(rest.split("$", 1)[0]!);
  let depth = 1;
  for (let i = 1; i < rest.length; i++) {
    if (rest[i] === "{") depth++;
    else if (rest[i] === "}" && --depth === 0) return rest.slice(1, i);
  }
  return rest.slice(1);
}

/** What strip_string of parser.py does to an answer that is a number with ornaments. */
function qwenNormalized(answer: string): string {
  let text = strip(answer).replaceAll("\n", "").replace(/\.+$/, "");
  text = text.replace(/\\[!,]/g, "").replace(/[td]frac/g, "frac");
  text = text
    .replace(/\\left|\\right/g, "")
    .replaceAll("\\{", "{")
    .replaceAll("\\}", "}");
  const withoutUnit = strip(text.replace(/\\text\{.*?\}$/, ""));
  if (withoutUnit !== "") text = withoutUnit;
  text = text
    .replace(/\^\{\\circ\}|\^\\circ/g, "")
    .replace(/\\?\$/g, "")
    .replace(/\\[()]/g, "");
  text = text
    .replace(/\\text\{(.*?)\}/g, "$1")
    .replace(/[xyz]=/g, "")
    .replace(/\\?%/g, "");
  text = text.replaceAll(" .", " 0.").replaceAll("{.", "{0.");
  // words beside a number: its unit
  text = text.replace(/^(-?[\p{Nd}.,]+)(?:\s+[a-z]+)+$/iu, "$1");
  text = text
    .replace(/(\p{Nd}+)\.0*(\P{Nd})/gu, "$1$2")
    .replace(/(\p{Nd}+)\.0*$/u, "$1")
    .replace(/^\./, "0.");
  const sides = text.split("=");
  if (sides.length === 2 && sides[0]!.length <= 2) text = sides[1]!;
  return text.replaceAll(" ", "");
}

/** math_equal of grader.py, for a number as the right answer. */
function qwenEqual(found: string, right: string): boolean {
  if (found.toLowerCase() === right.toLowerCase()) return true;
  const bare = (text: string): string => text.replace(/[{}()]/g, "");
  if (found !== "" && bare(found) === bare(right)) return true;
  const gold = pythonFloat(right);
  const value = pythonFloat(found) ?? fraction(found);
  if (gold === undefined || value === undefined) return false;
  return [gold / 100, gold, gold * 100].some(
    (target) => value === target || Math.abs(value - target) <= 1e-4 * Math.max(Math.abs(value), Math.abs(target)),
  );
}

/** float() of Python on a text without its commas; undefined where it raises or is not finite. */
function pythonFloat(text: string): number | undefined {
  const digits = strip(text.replaceAll(",", ""))
    .normalize("NFKC")
    .replace(/(?<=\d)_(?=\d)/g, "");
  const value = /^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/i.test(digits) ? Number(digits) : Number.NaN;
  return Number.isFinite(value) ? value : undefined;
}

/** A fraction of whole numbers, which theirs leaves to computer algebra. */
function fraction(text: string): number | undefined {
  const match = /^(-?)\\frac\{(\d+)\}\{(\d+)\}$/.exec(text) ?? /^(-?)(\d+)\/(\d+)$/.exec(text);
  if (match === null) return undefined;
  return ((match[1] === "-" ? -1 : 1) * Number(match[2])) / Number(match[3]);
}
