/**
 * GSM8K (Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems") as this program uses
 * it: 500 problems of the training file kept apart for choosing (dev), calculator annotations
 * removed. Knows texts; reads and writes no file.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { checkedJson, jsonOf } from "../files.js";

/** A file as published in openai/grade-school-math, grade_school_math/data/. */
export const gsm8kFiles = [
  { name: "train.jsonl", sha256: "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465" },
  { name: "test.jsonl", sha256: "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14" },
] as const;

export const gsm8kAddress = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data";

export const DEV_PROBLEMS = 500;
/** What is hashed before a question; another text would choose other problems. */
export const DEV_SEED = "finellama-rl/gsm8k-dev/1";

const problemSchema = z.object({ question: z.string(), answer: z.string() });
export type Gsm8kProblem = Readonly<z.infer<typeof problemSchema>>;

/** `<<48/2=24>>`: the authors' calculator was told this; the result follows it in the text. */
const annotation = /<<[^<>]*>>/g;

export const removeAnnotations = (answer: string): string => answer.replace(annotation, "");

/** Problems of a published file, annotations included. */
export function parseGsm8k(text: string, where: string): Gsm8kProblem[] {
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line, i) => checkedJson(jsonOf(line), problemSchema, `${where}:${i + 1}`));
}

/**
 * Takes the dev problems out of the training file: those with the smallest sha256(DEV_SEED,
 * newline, question). The choice depends on nothing but the questions. Both parts keep the file's
 * order.
 */
export function splitDev(problems: readonly Gsm8kProblem[], count = DEV_PROBLEMS) {
  const key = ({ question }: Gsm8kProblem): string =>
    createHash("sha256").update(`${DEV_SEED}\n${question}`).digest("hex");
  const chosen = new Set(
    problems
      .map((problem) => ({ problem, key: key(problem) }))
      .sort((a, b) => (a.key < b.key ? -1 : 1))
      .slice(0, count)
      .map(({ problem }) => problem),
  );
  return {
    train: problems.filter((problem) => !chosen.has(problem)),
    dev: problems.filter((problem) => chosen.has(problem)),
  };
}

/** JSON lines, annotations removed. */
export const gsm8kLines = (problems: readonly Gsm8kProblem[]): string =>
  problems
    .map(({ question, answer }) => `${JSON.stringify({ question, answer: removeAnnotations(answer) })}\n`)
    .join("");
