/** Summarises the predictions of one mode. Knows no files and no models. */
import { isWellFormed } from "../tasks/extract.js";
import { extractorNames, type Prediction } from "./folder/predictions.js";
import type { ModeMetrics } from "./folder/read-results.js";
import { majAtK, mean, passAtK, wilsonInterval } from "../math/statistics.js";

/** @param predictions all of one mode, by question and sample @param seconds of generating */
export function summarize(predictions: readonly Prediction[], samples: number, seconds: number): ModeMetrics {
  const n = predictions.length / samples;
  const questions = Array.from({ length: n }, (_, i) => predictions.slice(i * samples, (i + 1) * samples));
  const firsts = questions.map((completions) => completions[0]!);
  const isRight = ({ outcome }: Prediction): boolean => outcome === "correct";
  const share = (holds: (p: Prediction) => boolean): number => predictions.filter(holds).length / predictions.length;
  const right = firsts.filter(isRight).length;
  const tokens = predictions.reduce((sum, prediction) => sum + prediction.tokens, 0);
  const outcomes = { correct: 0, wrong: 0, unparsed: 0, truncated: 0 };
  for (const { outcome } of predictions) outcomes[outcome]++;
  return {
    accuracy: right / n,
    ci95: wilsonInterval(right, n),
    n,
    format_rate: share(({ text, finish_reason }) => finish_reason === "stop" && isWellFormed(text)),
    truncation_rate: share(({ finish_reason }) => finish_reason === "length"),
    mean_length: tokens / predictions.length,
    tokens_per_second: tokens / seconds,
    outcomes,
    extractors: Object.fromEntries(
      extractorNames.map((name) => {
        const count = firsts.filter(({ extracted }) => extracted[name].correct).length;
        return [name, { accuracy: count / n, ci95: wilsonInterval(count, n) }];
      }),
    ),
    agreement: {
      names: [...extractorNames],
      same_answer: extractorNames.map((one) =>
        extractorNames.map((other) => share(({ extracted }) => extracted[one].answer === extracted[other].answer)),
      ),
    },
    correct: firsts.map((first) => (isRight(first) ? 1 : 0)),
    ...(samples > 1 && atK(questions, samples)),
  };
}

/** Means over the questions of pass@k and maj@k; the answers are those of our extractor. */
function atK(questions: readonly (readonly Prediction[])[], samples: number) {
  const ks = Array.from({ length: Math.floor(Math.log2(samples)) + 1 }, (_, i) => 2 ** i);
  const byK = (of: (question: readonly Prediction[], k: number) => number): Record<string, number> =>
    Object.fromEntries(ks.map((k) => [String(k), mean(questions.map((question) => of(question, k)))]));
  const rightOf = (question: readonly Prediction[]): Prediction[] =>
    question.filter(({ outcome }) => outcome === "correct");
  /** A truncated completion does not vote, even if its last digits look like an answer. */
  const vote = ({ outcome, extracted }: Prediction): string | undefined =>
    outcome === "truncated" ? undefined : extracted.ours.answer;
  return {
    pass_at_k: byK((question, k) => passAtK(samples, rightOf(question).length, k)),
    maj_at_k: byK((question, k) => {
      const right = new Set(rightOf(question).map(vote));
      return Number(majAtK(question.map(vote), k, (answer) => right.has(answer)));
    }),
  };
}
