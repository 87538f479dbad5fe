/** Text for the terminal: a live frame, plain lines, and the closing report. */
import type { Accuracy, Metrics, ProgressEvent, RunSummary } from "../protocol/progress.js";
import { pairedBootstrapInterval } from "../math/statistics.js";
import { clock, percent, range, shellWord, signed, whole } from "../terminal/format.js";

export interface RunHeader {
  readonly runDir: string;
  readonly algo: string;
  readonly model: string;
  readonly serial: boolean;
  readonly numActors: number;
  readonly threads: { readonly learner: number; readonly actor: number };
}

/** What the events so far amount to. Times are milliseconds of one monotonic clock. */
export interface RunState {
  readonly header: RunHeader;
  readonly startedMs: number;
  backend?: string;
  parameters?: number;
  phase?: { name: string; done?: number; total?: number };
  iteration: number;
  maxSteps: number;
  metrics: Metrics;
  rewards: number[];
  /** That a batch had no reward is said once. */
  unrewarded?: true;
  /** Times at which the last iterations ended (and training began), oldest first. */
  iterationTimesMs: number[];
  validations: Extract<ProgressEvent, { type: "validation" }>[];
  actors: { running: number; restarts: number };
}

/** Iterations whose pace predicts the time left. */
const PACE_WINDOW = 20;

export function initialState(header: RunHeader, maxSteps: number, nowMs: number): RunState {
  return {
    header,
    startedMs: nowMs,
    iteration: 0,
    maxSteps,
    metrics: {},
    rewards: [],
    iterationTimesMs: [],
    validations: [],
    actors: { running: 0, restarts: 0 },
  };
}

export function update(state: RunState, event: ProgressEvent, nowMs: number): void {
  switch (event.type) {
    case "ready":
      state.backend = event.backend;
      state.parameters = event.parameters;
      state.iteration = event.iteration;
      break;
    case "phase":
      state.phase = event;
      // evaluation is not training: the pace starts afresh after it
      state.iterationTimesMs = [];
      break;
    case "iteration": {
      delete state.phase;
      state.iteration = event.iteration;
      state.maxSteps = event.maxSteps;
      state.metrics = event.metrics;
      const reward = event.metrics.reward;
      if (reward !== undefined && Number.isFinite(reward)) state.rewards.push(reward);
      state.iterationTimesMs = [...state.iterationTimesMs, nowMs].slice(-PACE_WINDOW - 1);
      break;
    }
    case "validation":
      state.validations.push(event);
      break;
    default:
      break;
  }
}

/** A line for the first batch without a reward. */
export function rewardNote(state: RunState, event: ProgressEvent): string | undefined {
  if (event.type !== "iteration" || event.metrics["reward"] !== undefined || state.unrewarded) return undefined;
  state.unrewarded = true;
  return `step ${event.iteration}: every reward function gave null for every completion: nothing is learnt from such a batch. Do the functions fit the data?`;
}

/** Milliseconds left at the pace of the latest iterations; undefined before two of them. */
export function etaMs({ iterationTimesMs: times, iteration, maxSteps }: RunState): number | undefined {
  if (times.length < 2) return undefined;
  return ((times.at(-1)! - times[0]!) / (times.length - 1)) * (maxSteps - iteration);
}

const interval = ({ accuracy, ci95 }: Accuracy): string => `${percent(accuracy)} ${range(ci95)}`;

/** Draws the means of at most `width` consecutive parts of `values` as bars. */
export function sparkline(values: readonly number[], width: number): string {
  const parts = Math.min(width, values.length);
  const means = Array.from({ length: parts }, (_, i) => {
    const part = values.slice(Math.floor((i * values.length) / parts), Math.floor(((i + 1) * values.length) / parts));
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
  const [low, high] = [Math.min(...means), Math.max(...means)];
  return means.map((mean) => "▁▂▃▄▅▆▇█"[high > low ? Math.round(((mean - low) / (high - low)) * 7) : 0]).join("");
}

function bar(done: number, total: number, width: number): string {
  const filled = total > 0 ? Math.round((Math.min(done, total) / total) * width) : 0;
  return "█".repeat(filled) + "░".repeat(width - filled);
}

type Shown = readonly [name: string, key: string, format: (value: number) => string];

const mainMetrics: readonly Shown[] = [
  ["reward", "reward", (value) => value.toFixed(3)],
  ["accuracy", "accuracy", percent],
  ["tokens/s", "tokens_per_second", whole],
  ["staleness", "staleness/max", String],
  ["idle actors", "idle/actor", percent],
  ["learner", "idle/learner", percent],
];
const details: readonly Shown[] = [
  ["length", "completions/mean_length", (n) => n.toFixed(1)],
  ["cut off", "completions/clipped_ratio", percent],
  ["entropy", "entropy", (n) => n.toFixed(3)],
  ["kl", "kl", (n) => n.toFixed(4)],
  ["grad norm", "grad_norm", (n) => n.toPrecision(3)],
];

/** Names and texts of metrics that are present, in the order shown; the reward may be none. */
const present = (metrics: Metrics, shown: readonly Shown[]): (readonly [name: string, text: string])[] =>
  shown.flatMap(([name, key, format]) => {
    if (metrics[key] !== undefined) return [[name, format(metrics[key])] as const];
    return key === "reward" && Object.keys(metrics).length > 0 ? [[name, "none"] as const] : [];
  });

export function plainIteration(state: RunState, nowMs: number): string {
  const total = String(state.maxSteps);
  const widths: Record<string, number> = { reward: 6, staleness: 1 };
  const eta = etaMs(state);
  return [
    `[${clock((nowMs - state.startedMs) / 1000).padStart(5)}]`,
    `step ${String(state.iteration).padStart(total.length)}/${total}`,
    ...present(state.metrics, mainMetrics).map(([name, text]) => `${name} ${text.padStart(widths[name] ?? 7)}`),
    ...(eta === undefined ? [] : [`eta ${clock(eta / 1000)}`]),
  ].join("  ");
}

/** "validation before: sampled 41.8 % [37.6, 46.1], n = 512" */
export function validationLine(event: Extract<ProgressEvent, { type: "validation" }>): string {
  const when = typeof event.when === "number" ? `at step ${event.when}` : event.when;
  return `validation ${when}: ${event.mode} ${interval(event)}, n = ${event.n}`;
}

export function headline({ header, backend, parameters }: Pick<RunState, "header" | "backend" | "parameters">): string {
  const { algo, model, serial, numActors, threads } = header;
  const size = parameters === undefined ? "" : ` (${(parameters / 1e6).toFixed(parameters < 1e7 ? 2 : 0)} M)`;
  const processes = serial
    ? `one process with ${plural(threads.learner, "thread")}`
    : `learner with ${plural(threads.learner, "thread")}, ${plural(numActors, "actor")} with ${threads.actor}`;
  return [
    `FineLlama-RL ${algo.toUpperCase()}`,
    model + size,
    ...(backend === undefined ? [] : [backend]),
    processes,
  ].join(" · ");
}

/** The live frame: lines of at most `columns` characters. */
export function frame(state: RunState, columns: number, nowMs: number): string[] {
  const { header, metrics, phase, iteration, maxSteps, actors } = state;
  const lines = [headline(state), `run directory ${header.runDir}`, ""];

  const eta = etaMs(state);
  const times = `elapsed ${clock((nowMs - state.startedMs) / 1000)}${eta === undefined ? "" : `   left ${clock(eta / 1000)}`}`;
  const barWidth = Math.max(10, Math.min(40, columns - 45));
  lines.push(`${bar(iteration, maxSteps, barWidth)} step ${iteration}/${maxSteps}   ${times}`);
  if (phase)
    lines.push(
      phase.total === undefined
        ? `${phase.name} …`
        : `${phase.name} ${bar(phase.done ?? 0, phase.total, 20)} ${phase.done ?? 0}/${phase.total}`,
    );

  if (state.rewards.length > 0) lines.push("", `reward ${sparkline(state.rewards, Math.min(60, columns - 10))}`);
  for (const shown of [mainMetrics, details].map((list) => present(metrics, list)))
    if (shown.length > 0) lines.push(shown.map(([name, text]) => `${name} ${text}`).join("   "));
  if (actors.restarts > 0)
    lines.push(`actors running ${actors.running} of ${header.numActors}, restarts ${actors.restarts}`);

  if (state.validations.length > 0) lines.push("", ...state.validations.slice(-8).map(validationLine));
  return lines.map((line) => line.slice(0, columns));
}

/** The 95 % interval of the gain over the same questions; none where the answers are not paired. */
function pairedInterval({ right: before }: Accuracy, { right: after }: Accuracy): string {
  if (before === undefined || after === undefined || before.length !== after.length) return "";
  const [low, high] = pairedBootstrapInterval(
    Array.from(after, (digit, i) => Number(digit) - Number(before[i])),
    1,
  );
  return ` [${signed(low)}, ${signed(high)}]`;
}

/** What a run ends with; `runDir` as the user would type it. */
export function report(summary: RunSummary, runDir: string): string {
  const { before, after } = summary.validation;
  const rows = (["sampled", "greedy"] as const).flatMap((mode) => {
    const [was, is] = [before?.[mode], after?.[mode]];
    if (!was && !is) return [];
    const gain = was && is ? `${signed(is.accuracy - was.accuracy)} points${pairedInterval(was, is)}` : "";
    return [[mode, was ? interval(was) : "not measured", is ? interval(is) : "not measured", gain]];
  });
  const table = [["accuracy", "before", "after", "gain"], ...rows];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  const text = table.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join("   ")
      .trimEnd(),
  );
  const n = (after ?? before)?.sampled?.n ?? (after ?? before)?.greedy?.n;
  const model = summary.checkpoint === null ? undefined : `${runDir}/${summary.checkpoint}`;
  return [
    ...(rows.length > 0
      ? ["", ...text, `${n} held-out problems; [95 % interval], of the gain over the same questions`]
      : []),
    "",
    `${summary.stopped ? "Stopped after" : "Done:"} ${plural(summary.iterations, "iteration")}, ${clock(summary.wall_seconds)} in all, ${clock(summary.train_seconds)} of it training, on ${summary.backend}.`,
    `Run: ${runDir}`,
    "Next:",
    ...(summary.stopped ? [`  node dist/launch.js --resume ${shellWord(runDir)}`] : []),
    ...(model === undefined
      ? []
      : [
          `  node dist/cli.js infer --model ${shellWord(model)} --prompt "Tom has 3 apples and buys 4 more. How many apples does he have?"`,
        ]),
    `  node dist/cli.js trajectories ${shellWord(runDir)} | head -n 3`,
  ].join("\n");
}

const plural = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? "" : "s"}`;
