/** Sections on training: learning curves, behaviour of the policy, cost. */
import { type Mode, modes } from "../../eval/folder/names.js";
import type { Axis, SeriesStyle } from "./charts/common.js";
import { type Curve, curveChart } from "./charts/curves.js";
import { duration, figure, percent, range, signed, whole } from "../../terminal/format.js";
import { type Block, type Section, label } from "./document.js";
import type { Gathered, ReportedRun } from "./gather.js";
import type { Account } from "./accounts.js";
import { type BandPoint, type Curves, algorithmsOf, metricCurves, validationCurves } from "./bands.js";

const seedsNote = (runs: readonly ReportedRun[]): string => {
  const seeds = Math.max(
    ...algorithmsOf(runs).map((name) => runs.filter(({ algorithm }) => algorithm === name).length),
  );
  return seeds > 1
    ? `Lines are means over ${seeds} seeds; bands reach from the lowest to the highest seed.`
    : "One run, so no band.";
};

/** @param primary the mode shown first and against all budgets */
export function learningSection({ runs }: Gathered, styles: ReadonlyMap<string, SeriesStyle>, primary: Mode): Section {
  const chart = chartOf(styles);
  const accuracy = (mode: Mode, against: "iteration" | "tokens" | "seconds"): Block[] =>
    chart(
      `validation-${mode}-${against}`,
      validationCurves(runs, mode),
      against,
      { name: `held-out accuracy, ${mode}`, percent: true },
      `Held-out accuracy, ${mode}, ${versus[against]}.`,
    );
  const reward = (against: "iteration" | "seconds"): Block[] =>
    chart(
      `reward-${against}`,
      metricCurves(runs, "reward"),
      against,
      { name: "reward" },
      `Mean reward of the training batches, ${versus[against]}.`,
    );
  const other = modes.find((mode) => mode !== primary)!;
  const blocks = [
    ...accuracy(primary, "iteration"),
    ...reward("iteration"),
    ...accuracy(primary, "tokens"),
    ...accuracy(primary, "seconds"),
    ...accuracy(other, "iteration"),
    ...reward("seconds"),
  ];
  return { id: "learning", title: "Learning curves", blocks: [{ kind: "text", text: seedsNote(runs) }, ...blocks] };
}

const versus = {
  iteration: "against iterations",
  tokens: "against completion tokens sampled for training",
  seconds: "against time spent in training iterations",
} as const;

export function behaviourSection({ runs }: Gathered, styles: ReadonlyMap<string, SeriesStyle>): Section {
  const chart = chartOf(styles);
  const of = (metric: string, name: string, axis: Axis, caption: string, some = runs): Block[] =>
    chart(name, metricCurves(some, metric), "iteration", axis, caption);
  const only = (algo: string): ReportedRun[] => runs.filter(({ config }) => config.algo === algo);
  // each algorithm's own estimate, in units that do not compare: never on one axis
  const kl = [
    ...of(
      "kl",
      "kl-grpo",
      { name: "KL (nats per token)" },
      "GRPO: KL to the model before training, the k3 estimate of its loss.",
      only("grpo"),
    ),
    ...of(
      "kl",
      "kl-ppo",
      { name: "KL (nats per completion)" },
      "PPO: KL to the model before training, as its reward is charged for it.",
      only("ppo"),
    ),
  ];
  const blocks = [
    ...of(
      "completions/mean_length",
      "length",
      { name: "tokens per completion" },
      "Mean length of training completions.",
    ),
    ...of(
      "completions/clipped_ratio",
      "cut-off",
      { name: "cut off", percent: true },
      "Training completions that ran out of tokens.",
    ),
    ...of("entropy", "entropy", { name: "entropy (nats per token)" }, "Entropy of the policy on trained tokens."),
    ...of("grad_norm", "grad-norm", { name: "gradient norm" }, "Global gradient norm before clipping."),
    ...of(
      "clip_ratio/region_mean",
      "clip-ratio",
      { name: "clipped", percent: true },
      "Trained tokens (or sequences) whose ratio was clipped.",
    ),
    ...kl,
  ];
  if (kl.length === 0) blocks.push({ kind: "text", text: "No run has a KL term, so KL was not measured." });
  return { id: "behaviour", title: "Lengths, entropy, KL", blocks };
}

/** A chart of an algorithm's curves, or nothing where no run has the metric. */
function chartOf(styles: ReadonlyMap<string, SeriesStyle>) {
  return (
    name: string,
    curves: Curves,
    against: "iteration" | "tokens" | "seconds",
    y: Axis,
    caption: string,
  ): Block[] => {
    const drawn = Object.entries(curves);
    if (drawn.length === 0) return [];
    const uncounted = drawn.some(([, points]) => points.some(({ tokens }) => tokens === null));
    if (against === "tokens" && uncounted) return [];
    const last = Math.max(...drawn.flatMap(([, points]) => points.map(({ seconds }) => seconds)));
    const [unit, divisor] =
      last >= 7200 ? (["h", 3600] as const) : last >= 180 ? (["min", 60] as const) : (["s", 1] as const);
    const most = Math.max(...drawn.flatMap(([, points]) => points.map(({ tokens }) => tokens ?? 0)));
    const [tokenName, tokenDivisor] =
      most >= 2e6
        ? (["million tokens", 1e6] as const)
        : most >= 2e3
          ? (["thousand tokens", 1e3] as const)
          : (["tokens", 1] as const);
    const x = {
      iteration: { name: "iteration", whole: true },
      tokens: { name: tokenName },
      seconds: { name: `training time (${unit})` },
    }[against];
    const at = (point: BandPoint): number =>
      against === "iteration"
        ? point.iteration
        : against === "tokens"
          ? point.tokens! / tokenDivisor
          : point.seconds / divisor;
    const shown = y.percent === true ? percent : figure;
    const lines = drawn.map(([algorithm, all]): Curve => ({
      name: label(algorithm),
      style: styles.get(algorithm)!,
      marked: all.length <= 25,
      points: all.map((point) => ({
        x: at(point),
        y: point.mean,
        ...(point.low < point.high && { low: point.low, high: point.high }),
      })),
    }));
    const ends = drawn.map(
      ([algorithm, all]) =>
        `${label(algorithm)} from ${shown(all[0]!.mean)} at iteration ${all[0]!.iteration} to ${shown(all.at(-1)!.mean)} at ${all.at(-1)!.iteration}`,
    );
    return [{ kind: "chart", name, svg: curveChart(x, y, lines), alt: `${caption} ${ends.join("; ")}.`, caption }];
  };
}

export function costSection(accounts: readonly Account[]): Section {
  return {
    id: "cost",
    title: "Cost",
    blocks: [
      {
        kind: "table",
        caption:
          "What training took. Training time is that of iterations; the whole has evaluations and checkpoints in it. Idle: share of the training time in which a side waited for the other.",
        head: [
          "run",
          "iterations",
          "completions",
          "tokens",
          "training time",
          "whole time",
          "tokens/s",
          "learner idle",
          "actors idle",
        ],
        rows: accounts.map((one) => [
          one.run,
          whole(one.iterations),
          whole(one.completions),
          one.tokens === null ? "not counted" : whole(one.tokens),
          duration(one.train_seconds),
          duration(one.wall_seconds),
          whole(one.tokens_per_second),
          percent(one.idle_learner),
          percent(one.idle_actor),
        ]),
      },
    ],
  };
}

/** "sampled: 46.1 % [41.8, 50.4] → 88.5 % [85.4, 91.0], +42.4 points, 512 questions" */
export function beforeAfter(run: ReportedRun): string[] {
  const [first, last] = [run.validation[0], run.validation.at(-1)];
  if (first === undefined || last === undefined || first === last) return [];
  return modes.flatMap((mode) => {
    const [a, b] = [first[mode], last[mode]];
    if (a === undefined || b === undefined) return [];
    return [
      `${mode}: ${percent(a.accuracy)} ${range(a.ci95)} → ${percent(b.accuracy)} ${range(b.ci95)} after ${last.iteration} iterations, ${signed(b.accuracy - a.accuracy)} points on ${whole(a.n)} held-out questions.`,
    ];
  });
}
