/** Sections on training: learning curves, behaviour of the policy, cost. */
import { type Mode, modes } from "../../eval/folder/names.js";
import type { Axis, SeriesStyle } from "./charts/common.js";
import { type Curve, curveChart } from "./charts/curves.js";
import { duration, figure, percent, range, signed, whole } from "../../terminal/format.js";
import { type Block, type Section, label, table } from "./document.js";
import type { Gathered, ReportedRun } from "./gather.js";
import type { Account } from "./accounts.js";
import { type Curves, algorithmsOf, metricCurves, validationCurves } from "./bands.js";

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
  const accuracy = (mode: Mode, against: Budgeted): Block[] =>
    chart(
      `validation-${mode}-${against}`,
      validationCurves(runs, mode),
      { name: `held-out accuracy, ${mode}`, percent: true },
      `Held-out accuracy, ${mode}, ${versus[against]}.`,
      against,
    );
  const reward = (against: Budgeted): Block[] => {
    const caption = `Mean reward of the training batches, ${versus[against]}.`;
    return chart(`reward-${against}`, metricCurves(runs, "reward"), { name: "reward" }, caption, against);
  };
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
type Budgeted = keyof typeof versus;

export function behaviourSection({ runs }: Gathered, styles: ReadonlyMap<string, SeriesStyle>): Section {
  const chart = chartOf(styles);
  // each algorithm's own estimate of KL, in units that do not compare: never on one axis
  const kl = (algo: string, unit: string, caption: string): Block[] => {
    const own = runs.filter(({ config }) => config.algo === algo);
    const name = `KL (nats per ${unit})`;
    return chart(
      `kl-${algo}`,
      metricCurves(own, "kl"),
      { name },
      `${label(algo)}: KL to the model before training, ${caption}.`,
    );
  };
  const others: [name: string, metric: string, axis: Axis, caption: string][] = [
    ["length", "completions/mean_length", { name: "tokens per completion" }, "Mean length of training completions."],
    [
      "cut-off",
      "completions/clipped_ratio",
      { name: "cut off", percent: true },
      "Training completions that ran out of tokens.",
    ],
    ["entropy", "entropy", { name: "entropy (nats per token)" }, "Entropy of the policy on trained tokens."],
    ["grad-norm", "grad_norm", { name: "gradient norm" }, "Global gradient norm before clipping."],
    [
      "clip-ratio",
      "clip_ratio/region_mean",
      { name: "clipped", percent: true },
      "Trained tokens (or sequences) whose ratio was clipped.",
    ],
  ];
  const kls = [
    ...kl("grpo", "token", "the k3 estimate of its loss"),
    ...kl("ppo", "completion", "as its reward is charged for it"),
  ];
  const blocks = others.flatMap(([name, metric, axis, caption]) =>
    chart(name, metricCurves(runs, metric), axis, caption),
  );
  if (kls.length === 0) kls.push({ kind: "text", text: "No run has a KL term, so KL was not measured." });
  return { id: "behaviour", title: "Lengths, entropy, KL", blocks: [...blocks, ...kls] };
}

/** Units from the largest, each with the least greatest value it is for. */
const timeUnits = [
  { from: 7200, size: 3600, name: "training time (h)" },
  { from: 180, size: 60, name: "training time (min)" },
  { from: 0, size: 1, name: "training time (s)" },
];
const tokenUnits = [
  { from: 2e6, size: 1e6, name: "million tokens" },
  { from: 2e3, size: 1e3, name: "thousand tokens" },
  { from: 0, size: 1, name: "tokens" },
];
const iterationUnits = [{ from: 0, size: 1, name: "iteration", whole: true }];
const units = { iteration: iterationUnits, tokens: tokenUnits, seconds: timeUnits };

/** A chart of an algorithm's curves, or nothing where no run has the metric. */
function chartOf(styles: ReadonlyMap<string, SeriesStyle>) {
  return (name: string, curves: Curves, y: Axis, caption: string, against: Budgeted = "iteration"): Block[] => {
    const drawn = Object.entries(curves);
    const spent = drawn.flatMap(([, points]) => points.map((point) => point[against]));
    if (drawn.length === 0 || spent.includes(null)) return [];
    const most = Math.max(...spent.map(Number));
    const x = units[against].find(({ from }) => most >= from)!;
    const shown = y.percent === true ? percent : figure;
    const lines = drawn.map(([algorithm, all]): Curve => ({
      name: label(algorithm),
      style: styles.get(algorithm)!,
      marked: all.length <= 25,
      points: all.map((point) => ({
        x: point[against]! / x.size,
        y: point.mean,
        // where seeds coincide the band is a line: left out, its neighbours would be joined across
        ...(all.some(({ low, high }) => low < high) && { low: point.low, high: point.high }),
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
  const blocks = [
    table(
      "What training took. Training time is that of iterations; the whole has evaluations and checkpoints in it. Idle: share of the training time in which a side waited for the other.",
      accounts,
      [
        ["run", (one) => one.run],
        ["iterations", (one) => whole(one.iterations)],
        ["completions", (one) => whole(one.completions)],
        ["tokens", ({ tokens }) => (tokens === null ? "not counted" : whole(tokens))],
        ["training time", (one) => duration(one.train_seconds)],
        ["whole time", (one) => duration(one.wall_seconds)],
        ["tokens/s", (one) => whole(one.tokens_per_second)],
        ["learner idle", (one) => percent(one.idle_learner)],
        ["actors idle", (one) => percent(one.idle_actor)],
      ],
    ),
  ];
  return { id: "cost", title: "Cost", blocks };
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
