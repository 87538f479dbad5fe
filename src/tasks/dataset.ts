/** Where problems come from and their order. Knows no tokenizer and no prompt format. */
import { existsSync, statSync } from "node:fs";
import { basename } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.js";
import { issuesOf, parseJson, readLines } from "../files.js";
import { goldAnswer } from "./extract.js";
import { hash32 } from "../math/random.js";
import { type Problem, type Split, VALIDATION_PROBLEMS, starterProblem } from "./starter.js";

export type { Problem } from "./starter.js";

export interface Dataset {
  /** "starter", "starter-test", or the file's name. */
  readonly name: string;
  /** Number of problems. */
  readonly size: number;
  /** Problem i, 0 ≤ i < size. */
  problem(i: number): Problem;
}

const starterSize: Readonly<Record<Split, number>> = { train: 2 ** 31, validation: VALIDATION_PROBLEMS, test: 2048 };

/**
 * Opens a data set.
 * @param spec "starter", "starter-test" (problems that no training run sees), or the path of a
 *   JSONL file in GSM8K's format: `question`, and `answer` ending in `#### n`
 * @param split which starter problems; a file is taken whole
 * @throws UserError for a missing or empty file, and naming the line for anything malformed
 */
export function loadDataset(spec: string, split: "train" | "validation"): Dataset {
  const part: Split = spec === "starter-test" ? "test" : split;
  if (spec === "starter" || spec === "starter-test")
    return { name: spec, size: starterSize[part], problem: (i) => starterProblem(part, i) };
  if (!existsSync(spec) || statSync(spec).isDirectory())
    throw new UserError(
      `${spec}: expected "starter" or a JSONL file with question and answer, found no such file. Check the path.`,
    );
  const name = basename(spec);
  const problems = readLines(spec).map(({ text, where }) =>
    parseLine(text, where, name + where.slice(where.lastIndexOf(":")).replace(":", "/")),
  );
  if (problems.length === 0)
    throw new UserError(
      `${spec}: expected at least one line {"question": …, "answer": …}, found an empty file. Prepare the data again.`,
    );
  return { name, size: problems.length, problem: (i) => problems[i] as Problem };
}

const lineSchema = z.looseObject({ question: z.string().trim().min(1), answer: z.string() });

function parseLine(line: string, where: string, id: string): Problem {
  const parsed = lineSchema.safeParse(parseJson(line, where, "one JSON object per line"));
  if (!parsed.success)
    throw new UserError(`${where}: expected the fields "question" and "answer" (texts):\n${issuesOf(parsed.error)}`);
  const { question, answer } = parsed.data;
  if (goldAnswer(answer) === undefined)
    throw new UserError(
      `${where}: expected an answer whose last line is "#### " and a number, found ${JSON.stringify(answer.slice(-60))}. Write digits: 3000000, not 3 million.`,
    );
  return { id, question, answer };
}

/**
 * The order problems are asked in: every problem once an epoch, each epoch in another order.
 *
 * A keyed permutation maps a position to an index, so that a resumed run needs no replay. It is a
 * four-round Feistel network over the next even power of two, repeated while outside the range.
 * Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains".
 */
export class PromptOrder {
  readonly size: number;
  readonly #seed: number;
  readonly #halfBits: number;

  /** @param size number of problems, 1 to 2^32 */
  constructor(size: number, seed: number) {
    this.size = size;
    this.#seed = seed;
    this.#halfBits = Math.max(1, Math.ceil(Math.log2(size) / 2));
  }

  /** Index of the problem at a position (0, 1, 2, …; epoch = floor(position / size)). */
  index(position: number): number {
    const epoch = Math.floor(position / this.size);
    let value = position - epoch * this.size;
    do value = this.#permute(value, epoch);
    while (value >= this.size);
    return value;
  }

  /** A bijection on [0, 4^halfBits). */
  #permute(value: number, epoch: number): number {
    const base = 2 ** this.#halfBits;
    let left = Math.floor(value / base);
    let right = value % base;
    for (let round = 0; round < 4; round++) {
      const scrambled = hash32(this.#seed, epoch, round, right) % base;
      [left, right] = [right, (left ^ scrambled) >>> 0];
    }
    return left * base + right;
  }
}
