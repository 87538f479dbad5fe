/** `predictions.jsonl`: a line for each completion, with what every extractor reads in it. */
import { existsSync } from "node:fs";
import { z } from "zod";
import { UserError } from "../../errors.js";
import { issuesOf, jsonOf, readBytes } from "../../files.js";
import { outcomeOf } from "../../tasks/extract.js";
import { extractors } from "../extractors/extractors.js";
import { modes } from "./names.js";

const readingSchema = z.object({
  /** Absent when the extractor sees no answer. */
  answer: z.string().optional(),
  correct: z.boolean(),
});

export const extractorNames = Object.keys(extractors) as (keyof typeof extractors)[];

const predictionSchema = z.object({
  mode: z.enum(modes),
  /** The question's place, from 0. */
  index: z.int().min(0),
  id: z.string(),
  /** Place among the question's samples, from 0. */
  sample: z.int().min(0),
  question: z.string(),
  answer: z.string(),
  /** Without the stop token, cut before the first stop string. */
  text: z.string(),
  finish_reason: z.enum(["stop", "length"]),
  /** Generated, the stop token (or the token that completed a stop string) included. */
  tokens: z.int().min(0),
  /** By the rule that rewards in training (`ours`). */
  outcome: z.enum(["correct", "wrong", "unparsed", "truncated"]),
  extracted: z.record(z.enum(extractorNames), readingSchema),
});

export type Prediction = z.infer<typeof predictionSchema>;

export function judge(completion: Omit<Prediction, "outcome" | "extracted">): Prediction {
  const { mode, index, id, sample, question, answer, text, finish_reason, tokens } = completion;
  const outcome = outcomeOf(text, finish_reason, answer);
  const extracted = Object.fromEntries(
    extractorNames.map((name) => [name, extractors[name](text, answer)]),
  ) as Prediction["extracted"];
  return { mode, index, id, sample, question, answer, text, finish_reason, tokens, outcome, extracted };
}

/** @throws UserError for a missing or empty file, and as parsePredictions */
export function readPredictions(file: string): Prediction[] {
  const predictions = existsSync(file) ? parsePredictions(file) : [];
  if (predictions.length === 0)
    throw new UserError(
      `${file}: expected predictions of eval, found ${existsSync(file) ? "an empty file" : "nothing"}. Run eval again.`,
    );
  return predictions;
}

/** The lines of a file; a torn last one is left out. @throws UserError naming a malformed line */
export function parsePredictions(file: string): Prediction[] {
  const lines = readBytes(file).toString("utf8").split("\n").slice(0, -1);
  return lines.map((line, i) => {
    const parsed = predictionSchema.safeParse(jsonOf(line));
    if (!parsed.success)
      throw new UserError(`${file}:${i + 1}: expected a prediction of eval.\n${issuesOf(parsed.error)}`);
    return parsed.data;
  });
}
