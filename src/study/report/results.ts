/** Means of evaluations over seeds with intervals, and how the answer to each question changed. */
import { analyze, changes } from "../../eval/error-classes.js";
import type { EvalDir, ModeFigures } from "../../eval/folder/read-results.js";
import { type Mode, modes } from "../../eval/folder/names.js";
import { type Interval, tTest, wilsonInterval, mean, sum } from "../../math/statistics.js";
import type { Gathered } from "./gather.js";

/** The baseline's result under one prompt in one mode, or an algorithm's over its seeds. */
export type Result = ReturnType<typeof results>[number];

export function results({ baseline, runs }: Gathered) {
  const groups = new Map<string, { who: string; seeds: number[]; evals: EvalDir[]; mode: Mode }>();
  const add = (who: string, seed: number | null, evaluation: EvalDir): void => {
    for (const mode of modes) {
      if (evaluation.metrics[mode] === undefined) continue;
      const key = [evaluation.metrics.prompt, mode, who].join("\n");
      const group = groups.get(key) ?? { who, seeds: [], evals: [], mode };
      if (seed !== null) group.seeds.push(seed);
      group.evals.push(evaluation);
      groups.set(key, group);
    }
  };
  for (const evaluation of baseline) add("baseline", null, evaluation);
  for (const run of runs) for (const evaluation of run.evals) add(run.algorithm, run.config.seed, evaluation);
  return [...groups.values()].map(({ who, seeds, evals, mode }) => {
    const figures = evals.map(({ metrics }) => metrics[mode]!);
    const { n, extractors, outcomes } = figures[0]!;
    const analyses = evals.map(({ predictions }) => analyze(predictions).find((one) => one.mode === mode)!);
    return {
      who,
      prompt: evals[0]!.metrics.prompt,
      mode,
      n,
      /** Training seeds; none for the baseline. */
      seeds,
      ...overSeeds(figures, n),
      accuracies: figures.map(({ accuracy }) => accuracy),
      extractors: byName(extractors, (name) => {
        const read = figures.map((one) => one.extractors[name]!);
        return overSeeds(read, n);
      }),
      /** Shares of pairs of extractors that see the same answer, "ours / verl"; mean over seeds. */
      agreement: agreementOf(figures),
      format_rate: mean(figures.map((one) => one.format_rate)),
      truncation_rate: mean(figures.map((one) => one.truncation_rate)),
      mean_length: mean(figures.map((one) => one.mean_length)),
      pass_at_k: meansOf(figures.map((one) => one.pass_at_k ?? {})),
      maj_at_k: meansOf(figures.map((one) => one.maj_at_k ?? {})),
      /** Completions by outcome and by class of analyze, summed over seeds. */
      outcomes: byName(outcomes, (name) => sum(figures.map((one) => one.outcomes[name] ?? 0))),
      classes: byName(analyses[0]!.all.classes, (name) => sum(analyses.map(({ all }) => all.classes[name]))),
    };
  });
}

/** The wider of Student's t over seeds and Wilson's over questions: seeds may agree by chance. */
function overSeeds(
  list: readonly { readonly accuracy: number; readonly ci95: readonly [number, number] }[],
  n: number,
): { accuracy: number; ci95: Interval } {
  if (list.length === 1) return { accuracy: list[0]!.accuracy, ci95: [...list[0]!.ci95] };
  const { mean: accuracy, interval } = tTest(list.map(({ accuracy }) => accuracy));
  const ofQuestions = wilsonInterval(accuracy * n, n);
  return {
    accuracy,
    ci95: [Math.max(0, Math.min(interval[0], ofQuestions[0])), Math.min(1, Math.max(interval[1], ofQuestions[1]))],
  };
}

function agreementOf(figures: readonly ModeFigures[]): Record<string, number> {
  const { names } = figures[0]!.agreement;
  const pairs = names.flatMap((a, i) => names.slice(i + 1).map((b, j) => [`${a} / ${b}`, i, i + 1 + j] as const));
  return Object.fromEntries(
    pairs.map(([pair, i, j]) => [pair, mean(figures.map(({ agreement }) => agreement.same_answer[i]![j]!))]),
  );
}

/** What became of each question between baseline and trained model. */
export type Flow = ReturnType<typeof flows>[number];

/** Runs without a baseline of the same prompt have none. */
export function flows({ baseline, runs }: Gathered) {
  return runs.flatMap((run) =>
    run.evals.flatMap((after) => {
      const before = baseline.find(({ metrics }) => metrics.prompt === after.metrics.prompt);
      if (before === undefined) return [];
      return changes(before.predictions, after.predictions, [before.dir, after.dir]).map((change) => ({
        run: run.name,
        prompt: after.metrics.prompt,
        ...change,
      }));
    }),
  );
}

const meansOf = (list: readonly Readonly<Record<string, number>>[]): Record<string, number> =>
  byName(list[0]!, (key) => mean(list.map((one) => one[key]!)));

const byName = <K extends string, W>(named: Readonly<Record<K, unknown>>, of: (name: K) => W): Record<K, W> =>
  Object.fromEntries((Object.keys(named) as K[]).map((name) => [name, of(name)])) as Record<K, W>;
