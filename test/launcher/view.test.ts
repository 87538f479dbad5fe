import { EventEmitter } from "node:events";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  etaMs,
  frame,
  initialState,
  plainIteration,
  report,
  sparkline,
  update,
  type RunHeader,
} from "../../src/launcher/render.js";
import { createView, plainView } from "../../src/launcher/view.js";
import type { ProgressEvent, RunSummary } from "../../src/protocol/progress.js";

const header: RunHeader = {
  runDir: "runs/a",
  algo: "grpo",
  model: "assets/starter",
  serial: false,
  numActors: 2,
  threads: { learner: 2, actor: 1 },
};
const iteration = (n: number, metrics: Record<string, number> = { reward: 0.5 }): ProgressEvent => ({
  type: "iteration",
  iteration: n,
  maxSteps: 120,
  metrics,
});
const accuracy = (value: number) => ({ accuracy: value, ci95: [value - 0.04, value + 0.04] as const, n: 512 });

/** State after events that come a second apart, the first at 1 s. */
function after(...events: ProgressEvent[]) {
  const state = initialState(header, 120, 0);
  events.forEach((event, i) => update(state, event, 1000 * (i + 1)));
  return state;
}

/** A plain view and the lines it has written. */
function plainLines() {
  const lines: string[] = [];
  const write = (line: string) => lines.push(line);
  return { view: plainView(write, header, 120, () => 0), lines };
}

describe("live frame", () => {
  const events: ProgressEvent[] = [
    { type: "ready", backend: "tensorflow", parameters: 1_900_000, iteration: 0 },
    { type: "validation", when: "before", mode: "sampled", ...accuracy(0.418) },
    ...[1, 2, 3, 4].map((n) =>
      iteration(n, {
        reward: n / 10,
        accuracy: 0.612,
        tokens_per_second: 4210.4,
        "staleness/max": 1,
        "idle/actor": 0.04,
        "idle/learner": 0.12,
      }),
    ),
  ];

  test("shows where the run is and how it fares", () => {
    const text = frame(after(...events), 120, 60_000).join("\n");
    for (const part of [
      "GRPO",
      "assets/starter (1.90 M)",
      "tensorflow",
      "2 actors with 1",
      "runs/a",
      "step 4/120",
      "elapsed 1:00",
      "left 1:56",
    ])
      expect(text).toContain(part);
    for (const part of [
      "reward ▁▃▆█",
      "reward 0.400",
      "accuracy 61.2 %",
      "tokens/s 4,210",
      "staleness 1",
      "idle actors 4.0 %",
      "learner 12.0 %",
    ])
      expect(text).toContain(part);
    expect(text).toContain("validation before: sampled 41.8 % [37.8, 45.8], n = 512");
  });

  test("no line is wider than the terminal, however narrow", () => {
    const state = after(...events, { type: "phase", name: "evaluating", done: 7, total: 512 });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), (columns) => {
        for (const line of frame(state, columns, 5000)) expect(line.length).toBeLessThanOrEqual(columns);
      }),
    );
  });

  test("a phase is shown until the next iteration, dead actors as long as they matter", () => {
    const state = after({ type: "phase", name: "evaluating", done: 256, total: 512 });
    expect(frame(state, 100, 0).join("\n")).toContain("evaluating ██████████░░░░░░░░░░ 256/512");
    update(state, iteration(1), 1);
    state.actors = { running: 1, restarts: 2 };
    const text = frame(state, 100, 0).join("\n");
    expect(text).not.toContain("evaluating");
    expect(text).toContain("actors running 1 of 2, restarts 2");
  });

  test("metrics that were not sent are left out, not shown as zero", () => {
    const text = frame(after(iteration(1, { grad_norm: 0.5 })), 100, 0).join("\n");
    expect(text).toContain("grad norm 0.500");
    // a batch without a reward is no batch of reward 0
    expect(text).toContain("reward none");
    expect(text).not.toMatch(/staleness|kl/);
  });
});

test("time left follows the pace of iterations, unknown before two and after an evaluation", () => {
  expect(etaMs(after(iteration(1)))).toBeUndefined();
  // 1 s apart, 117 to go
  expect(etaMs(after(iteration(1), iteration(2), iteration(3)))).toBe(117_000);
  expect(etaMs(after(iteration(1), iteration(2), { type: "phase", name: "evaluating" }, iteration(3)))).toBeUndefined();
});

test("sparkline: at most `width` bars, least and greatest at the ends of the scale, flat is low", () => {
  expect(sparkline([0, 1], 10)).toBe("▁█");
  expect(sparkline([2, 2, 2], 10)).toBe("▁▁▁");
  expect(sparkline([0, 0, 7, 7], 2)).toBe("▁█");
  expect(sparkline([], 5)).toBe("");
  fc.assert(
    fc.property(
      fc.array(fc.double({ noNaN: true, min: -1e3, max: 1e3 })),
      fc.integer({ min: 1, max: 80 }),
      (values, width) => {
        expect(sparkline(values, width)).toMatch(new RegExp(`^[▁-█]{${Math.min(width, values.length)}}$`));
      },
    ),
  );
});

describe("plain lines", () => {
  test("columns of successive iterations line up", () => {
    const metrics = (scale: number) => ({
      reward: 0.09 * scale,
      accuracy: 0.09 * scale,
      tokens_per_second: 900 * scale,
      "staleness/max": 1,
      "idle/actor": 0.1 * scale,
    });
    const lines = [1, 10, 100].map((n, i) => plainIteration(after(iteration(n, metrics(i === 0 ? 1 : 10))), 1000));
    const columns = ["reward", "accuracy", "tokens/s", "staleness", "idle actors"];
    for (const column of columns) expect(new Set(lines.map((line) => line.indexOf(column))).size).toBe(1);
    expect(lines[0]).toMatch(/^\[ 0:01\] {2}step {3}1\/120 {2}reward {2}0.090 /);
  });

  test("one line per iteration and evaluation, one at the start of a phase, log lines as they are", () => {
    const { view, lines } = plainLines();
    for (const done of [0, 1, 2]) view.event({ type: "phase", name: "evaluating", done, total: 2 });
    view.event({ type: "validation", when: 20, mode: "greedy", ...accuracy(0.8) });
    view.event(iteration(1));
    view.event(iteration(2));
    view.event({ type: "log", message: "hello" });
    // the supervisor tells errors, once
    view.event({ type: "error", message: "told elsewhere", user: true });
    expect(lines.slice(1)).toEqual([
      "evaluating (2)",
      "validation at step 20: greedy 80.0 % [76.0, 84.0], n = 512",
      expect.stringContaining("step   1/120"),
      expect.stringContaining("step   2/120"),
      "hello",
    ]);
  });
});

test("a batch without a reward shows none, and is explained once", () => {
  const { view, lines } = plainLines();
  for (const n of [1, 2, 3]) view.event(iteration(n, n === 1 ? { reward: 0, accuracy: 0 } : { accuracy: 0 }));
  expect(lines.slice(1).map((line) => /reward +\S+/.exec(line)![0].replace(/ +/, " "))).toEqual([
    "reward 0.000",
    "reward none",
    "reward function",
    "reward none",
  ]);
  expect(lines[3]).toMatch(/^step 2: every reward function gave null/);
});

describe("closing report", () => {
  const summary: RunSummary = {
    algo: "grpo",
    validation: {
      before: { sampled: accuracy(0.418), greedy: accuracy(0.8) },
      after: { sampled: accuracy(0.631), greedy: accuracy(0.79) },
    },
    iterations: 120,
    wall_seconds: 312,
    train_seconds: 250,
    backend: "tensorflow",
    commit: null,
    checkpoint: "checkpoints/step-000120",
    stopped: false,
  };

  test("holds accuracy before and after with intervals, the gain with its sign, and the next commands", () => {
    const text = report(summary, "runs/a");
    expect(text).toMatch(/^sampled {4}41.8 % \[37.8, 45.8\] {3}63.1 % \[59.1, 67.1\] {3}\+21.3 points$/m);
    expect(text).toMatch(/^greedy .* −1.0 points$/m);
    expect(text).toContain("512 held-out problems");
    expect(text).toContain("120 iterations, 5:12 in all, 4:10 of it training, on tensorflow");
    expect(text).toContain("infer --model runs/a/checkpoints/step-000120 --prompt");
    expect(text).toContain("trajectories runs/a");
    expect(text).not.toContain("--resume");
  });

  test("the next commands can be pasted into a shell, whatever the path", () => {
    const text = report({ ...summary, stopped: true }, "my runs/it's");
    expect(text).toContain(`--resume 'my runs/it'\\''s'\n`);
    expect(text).toContain(`infer --model 'my runs/it'\\''s/checkpoints/step-000120' --prompt`);
    expect(text).toContain(`trajectories 'my runs/it'\\''s' | head`);
  });

  test("the gain has the interval of paired answers, where they are known", () => {
    const of = (right: string) => ({ sampled: { ...accuracy(0.5), right } });
    const gain = (before: string, after: string) =>
      /\S+ points.*/
        .exec(report({ ...summary, validation: { before: of(before), after: of(after) } }, "runs/a"))![0]
        .trim();
    const digits = (n: number, digit: string) => digit.repeat(n);
    // the same answers: no doubt about a gain of nothing, wide as the single intervals are
    expect(gain("0110".repeat(50), "0110".repeat(50))).toMatch(/points \[\+?0\.0, \+?0\.0\]/);
    const [, low, high] = /\[(\S+), (\S+)\]/.exec(gain(digits(200, "0"), digits(40, "1") + digits(160, "0")))!;
    // scipy.stats.bootstrap of 40 ones among 200 gives [0.145, 0.255]
    expect(Number(low)).toBeCloseTo(14.5, -0.5);
    expect(Number(high)).toBeCloseTo(25.5, -0.5);
    expect(gain("01", "011")).not.toContain("[");
  });

  test("a stopped run says what was not measured and how to continue", () => {
    const text = report(
      { ...summary, validation: { before: summary.validation.before! }, stopped: true, checkpoint: null },
      "runs/a",
    );
    expect(text).toMatch(/^sampled .* not measured$/m);
    expect(text).toContain("--resume runs/a");
    expect(text).not.toContain("infer");
  });
});

test.each<[NodeJS.ProcessEnv, boolean]>([
  [{ TERM: "xterm" }, true],
  [{}, true],
  [{ TERM: "xterm", CI: "" }, true],
  [{ TERM: "xterm", CI: "false" }, true],
  [{ TERM: "dumb" }, false],
  [{ TERM: "xterm", CI: "1" }, false],
  [{ TERM: "xterm", CI: "true" }, false],
])("on a terminal with %j the view is live: %s", (env, live) => {
  let written = "";
  const write = (text: string) => ((written += text), true);
  const stream = Object.assign(new EventEmitter(), { isTTY: true, columns: 80, rows: 24, write });
  createView(stream as unknown as NodeJS.WriteStream, header, 120, () => 0, env).close();
  expect(written.includes("░")).toBe(live);
});

test.each([
  [0, "0 iterations"],
  [1, "1 iteration,"],
  [2, "2 iterations"],
])("a report of %d counts in words: %s", (iterations, words) => {
  const summary = { iterations, wall_seconds: 1, train_seconds: 1, backend: "cpu", checkpoint: null, stopped: false };
  expect(report({ ...summary, validation: {} } as unknown as RunSummary, "runs/a")).toContain(`Done: ${words}`);
});
