/**
 * How others read an answer, each exactly as its owner does; ours is tasks/extract.ts. Sources:
 * lm-eval 0.4.13 `tasks/gsm8k/gsm8k.yaml` (version 3); verl 0.9.1 `utils/reward_score/gsm8k.py`;
 * qwen-math.ts. Python and JavaScript differ in `\d`, `$` and length: handled where it has an
 * effect.
 */
import { extractAnswer, goldAnswer, sameNumber } from "../../tasks/extract.js";
import { type Reading, qwenBoxed } from "./qwen-math.js";

/** @param gold the data set's worked answer, ending in `#### n` */
export type Extractor = (text: string, gold: string) => Reading;

export const extractors = {
  ours,
  lm_eval_strict: lmEvalStrict,
  lm_eval_flexible: lmEvalFlexible,
  verl,
  boxed: qwenBoxed,
} as const satisfies Record<string, Extractor>;

/** The number after the last `####` or in the last `\boxed{}`, compared as a number. */
function ours(text: string, gold: string): Reading {
  const value = extractAnswer(text)?.value;
  const right = goldAnswer(gold);
  return { answer: value, correct: value !== undefined && right !== undefined && sameNumber(value, right) };
}

/** lm-eval "strict-match": the first `#### `, exactly one space, then a number. */
function lmEvalStrict(text: string, gold: string): Reading {
  return lmEvalReading(/#### (-?[0-9.,]+)/.exec(text)?.[1], gold);
}

/** lm-eval "flexible-extract": the last thing that looks like a number, which may be "." or "$". */
function lmEvalFlexible(text: string, gold: string): Reading {
  return lmEvalReading(text.match(/-?[$0-9.,]{2,}|-?[0-9]+/g)?.at(-1), gold);
}

function lmEvalReading(answer: string | undefined, gold: string): Reading {
  return { answer, correct: lmEvalNormalized(answer ?? "[invalid]") === lmEvalNormalized(gold) };
}

/** exact_match with the task's regexes_to_ignore; Python's `$` also matches before a last \n. */
function lmEvalNormalized(text: string): string {
  return text
    .replaceAll(",", "")
    .replaceAll("$", "")
    .replace(/^[^]*#### /, "")
    .replace(/\.(?=\n?$)/g, "")
    .toLowerCase();
}

/** verl's default "strict": the last `#### ` number of the last 300 code points, without commas. */
function verl(text: string, gold: string): Reading {
  const end = Array.from(text).slice(-300).join("");
  const answer = end
    .match(/#### -?[0-9.,]+/g)
    ?.at(-1)
    ?.slice("#### ".length)
    .replaceAll(",", "");
  // its data preparation takes the first match of the gold answer
  const right = /#### (-?[0-9.,]+)/.exec(gold)?.[1]?.replaceAll(",", "");
  return { answer, correct: answer !== undefined && answer === right };
}
