/** Why answers are wrong, and what changed between two evaluations. Knows predictions, no files. */
import { UserError } from "../errors.js";
import { type Operator, equationsOf } from "./arithmetic.js";
import type { Prediction } from "./folder/predictions.js";
import { type Mode, modes } from "./folder/names.js";

/** Shown in this order. The first is right, the second right in all but form. */
export const answerClasses = {
  correct: "right",
  format_only: "no answer in our format, but another extractor finds the right number",
  arithmetic_slip: "an equation it writes does not hold",
  wrong_setup: "every equation it writes holds, the answer is wrong",
  no_equation: "wrong, without an equation that could be checked",
  unparsed: "ended without an answer",
  truncated: "ran out of tokens before the answer",
} as const;
export type AnswerClass = keyof typeof answerClasses;

export function classOf({ outcome, extracted, text }: Prediction): AnswerClass {
  if (outcome === "correct" || outcome === "truncated") return outcome;
  if (outcome === "unparsed")
    return Object.values(extracted).some(({ correct }) => correct) ? "format_only" : "unparsed";
  const equations = equationsOf(text);
  if (equations.length === 0) return "no_equation";
  return equations.every(({ holds }) => holds) ? "wrong_setup" : "arithmetic_slip";
}

export type ClassCounts = Analysis["all"];
export type Analysis = ReturnType<typeof analyzeMode>;

const SLIPS_SHOWN = 10;

export function analyze(predictions: readonly Prediction[]): Analysis[] {
  return modesOf(predictions).map((mode) =>
    analyzeMode(
      mode,
      predictions.filter((one) => one.mode === mode),
    ),
  );
}

function analyzeMode(mode: Mode, predictions: readonly Prediction[]) {
  const judged = predictions.map((prediction) => ({
    prediction,
    class: classOf(prediction),
    gold: equationsOf(prediction.answer),
  }));
  type Judged = (typeof judged)[number];
  const counts = (group: string, members: readonly Judged[]) => {
    const names = Object.keys(answerClasses) as AnswerClass[];
    const classes = Object.fromEntries(names.map((name) => [name, 0])) as Record<AnswerClass, number>;
    for (const member of members) classes[member.class]++;
    return { group, n: members.length, classes };
  };
  const grouped = <K extends string | number>(keys: (one: Judged) => readonly K[], order: (a: K, b: K) => number) => {
    const groups = new Map<K, Judged[]>();
    for (const one of judged) for (const key of new Set(keys(one))) groups.set(key, [...(groups.get(key) ?? []), one]);
    return [...groups].sort(([a], [b]) => order(a, b));
  };
  const ascending = (a: number, b: number): number => a - b;
  const bounds = quarters(predictions.map(({ tokens }) => tokens));
  const quarterOf = (tokens: number): number => bounds.findIndex(([, last]) => tokens <= last);
  const operations: readonly Operator[] = ["+", "−", "×", "÷"];
  return {
    mode,
    all: counts("all", judged),
    /** Quarters of the completions by length in tokens. */
    by_length: grouped((one) => [quarterOf(one.prediction.tokens)], ascending).map(([quarter, members]) =>
      counts(`${bounds[quarter]!.join("–")} tokens`, members),
    ),
    /** Equations in the data set's own solution. */
    by_steps: grouped((one) => [one.gold.length], ascending).map(([steps, members]) =>
      counts(steps === 1 ? "1 step" : `${steps} steps`, members),
    ),
    /** Operations in that solution; a question with two of them counts in both rows. */
    by_operation: grouped(
      (one) => one.gold.flatMap((equation) => equation.operations),
      (a, b) => operations.indexOf(a) - operations.indexOf(b),
    ).map(([operation, members]) => counts(operation, members)),
    /** The first equations that do not hold, with the question they belong to. */
    slips: judged
      .filter((one) => one.class === "arithmetic_slip")
      .slice(0, SLIPS_SHOWN)
      .map(({ prediction }) => {
        const slip = equationsOf(prediction.text).find(({ holds }) => !holds)!;
        return { id: prediction.id, equation: slip.text, value: slip.left };
      }),
  };
}

/** First and last value of four parts of about equal size; fewer when values repeat. */
function quarters(values: readonly number[]): [first: number, last: number][] {
  const sorted = values.toSorted((a, b) => a - b);
  const ends = [...new Set([1, 2, 3, 4].map((q) => sorted[Math.ceil((q * sorted.length) / 4) - 1]!))];
  return ends.map((end, i) => [i === 0 ? sorted[0]! : sorted.find((value) => value > ends[i - 1]!)!, end]);
}

/** Right and wrong before and after, by question (and sample). */
export type Changes = ReturnType<typeof changes>[number];

/** Pairs completions in the modes both have. @throws UserError when the questions differ */
export function changes(before: readonly Prediction[], after: readonly Prediction[], names: readonly [string, string]) {
  const shared = modesOf(before).filter((mode) => modesOf(after).includes(mode));
  if (shared.length === 0)
    throw new UserError(
      `${names.join(" and ")}: expected a mode in common, found ${modesOf(before).join(", ")} and ${modesOf(after).join(", ")}. Evaluate both in the same way.`,
    );
  return shared.map((mode) => {
    const pairs = paired(mode, before, after, names);
    const count = (was: boolean, is: boolean): number =>
      pairs.filter(([a, b]) => (a.outcome === "correct") === was && (b.outcome === "correct") === is).length;
    const classes = new Map<string, { before: AnswerClass; after: AnswerClass; n: number }>();
    for (const [a, b] of pairs) {
      const key = { before: classOf(a), after: classOf(b) };
      const entry = classes.get(Object.values(key).join()) ?? { ...key, n: 0 };
      entry.n++;
      classes.set(Object.values(key).join(), entry);
    }
    return {
      mode,
      n: pairs.length,
      right_right: count(true, true),
      wrong_right: count(false, true),
      right_wrong: count(true, false),
      wrong_wrong: count(false, false),
      /** Completions by class before and class after; pairs that do not occur are left out. */
      classes: [...classes.values()].sort((x, y) => y.n - x.n),
    };
  });
}

/** Pairs the completions of one mode. @throws UserError when questions or samples differ */
function paired(
  mode: Mode,
  before: readonly Prediction[],
  after: readonly Prediction[],
  names: readonly [string, string],
): [Prediction, Prediction][] {
  const keyed = (list: readonly Prediction[]) =>
    new Map(list.filter((one) => one.mode === mode).map((one) => [`${one.index}/${one.sample}`, one]));
  const [a, b] = [keyed(before), keyed(after)];
  const refuse = (what: string): never => {
    throw new UserError(
      `${names.join(" and ")}: expected the same questions (${mode}), found ${what}. Evaluate both on the same data.`,
    );
  };
  const [questionsA, questionsB] = [a, b].map(
    (side) => new Map([...side.values()].map((one) => [one.index, one.question])),
  );
  if (questionsA!.size !== questionsB!.size) refuse(`${questionsA!.size} and ${questionsB!.size} questions`);
  for (const [index, question] of questionsA!)
    if (questionsB!.get(index) !== question)
      refuse(
        `${questionsB!.has(index) ? "another question" : "none"} at number ${index} (${JSON.stringify(question.slice(0, 60))})`,
      );
  if (a.size !== b.size) refuse(`${a.size} and ${b.size} completions of them: --samples differ`);
  return [...a].map(([key, one]) => [one, b.get(key) ?? refuse(`no completion ${key} in the second`)]);
}

const modesOf = (predictions: readonly Prediction[]): Mode[] =>
  modes.filter((mode) => predictions.some((one) => one.mode === mode));
