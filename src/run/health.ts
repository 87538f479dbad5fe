/** How far a run is and whether it is well, by its files alone. Writes nothing. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { readIncidents } from "./incidents.js";
import {
  checkpointsFolder,
  configFile,
  metricsFile,
  ownerFile,
  summaryFile,
  trajectoriesFolder,
  validationFile,
} from "./paths.js";
import { type Owner, readOwner } from "./owner.js";
import { type RunFiles, readRunFiles } from "./records.js";

/** Iterations whose pace and health are looked at. */
const WINDOW = 20;
/** A run hangs when its files are older than this and than so many of its longest iterations. */
const LEAST_STALE_SECONDS = 300;
const STALE_ITERATIONS = 10;
/** Below this share of the groups, refused or repeated work does no harm. */
const MUCH_REFUSED = 0.01;
const MUCH_IDLE = 0.9;
/** A process that died or hung so recently is a problem; later it is a warning. */
const FRESH_SECONDS = 120;
const MOST_WARNINGS = 20;

export type Status = ReturnType<typeof runStatus>;

/** @throws UserError when a file of the run is damaged */
export function runStatus(dir: string, nowMs = Date.now()) {
  const files = readRunFiles(dir);
  const { config, metrics, summary } = files;
  const owner = readOwner(ownerFile(dir));
  const last = metrics.at(-1) ?? {};
  const iteration = last.iteration ?? 0;
  const latest = metrics.slice(-WINDOW - 1);
  const pace = latest.length < 2 ? null : (last.wall_seconds! - latest[0]!.wall_seconds!) / (latest.length - 1);
  const silentSeconds = Math.max(0, (nowMs - newestChangeMs(dir)) / 1000);
  const state = stateOf(owner, files);
  const running = state === "running";
  const incidents = readIncidents(dir)
    .map(({ time, message }) => ({ message, age: (nowMs - Date.parse(time)) / 1000 }))
    .toReversed();
  return {
    name: basename(dir),
    state,
    owner,
    algo: config.algo,
    seed: config.seed,
    iteration,
    max_steps: config.max_steps,
    /** Wall time, evaluations included, over the latest iterations; null before the second one. */
    seconds_per_iteration: pace,
    eta_seconds: running && pace !== null ? pace * (config.max_steps - iteration) : null,
    /** Since the last iteration, answer or checkpoint. */
    silent_seconds: silentSeconds,
    reward: last.reward ?? null,
    accuracy: last.accuracy ?? null,
    tokens_per_second: last.tokens_per_second ?? null,
    /** Why it is not well; none when it is. */
    problems: [
      ...stateProblems(state, owner, summary?.iterations ?? iteration),
      ...(running ? silence(silentSeconds, metrics) : []),
      ...brokenLimits(files),
      ...(running ? incidents.filter(({ age }) => age < FRESH_SECONDS).map(({ message }) => message) : []),
    ],
    /** Worth a look, but no reason to call it unwell. */
    warnings: [
      ...warningsOf(files, running),
      ...incidents.filter(({ age }) => !running || age >= FRESH_SECONDS).map(({ message }) => message),
    ].slice(0, MOST_WARNINGS),
  };
}

/** "ended": nobody runs it, and it has no summary. */
type State = "running" | "finished" | "stopped" | "died" | "ended";

function stateOf(owner: Owner | null, { config, metrics, summary }: RunFiles): State {
  // a mark of another machine is believed; `silence` reports a run that no longer writes
  if (owner !== null && owner.state !== "dead") return "running";
  const newest = metrics.at(-1)?.iteration ?? 0;
  const whole = summary !== null && summary.iterations >= newest;
  if (owner !== null) return whole && !summary.stopped ? "finished" : "died";
  if (!whole) return "ended";
  return summary.stopped || summary.iterations < config.max_steps ? "stopped" : "finished";
}

function stateProblems(state: State, owner: Owner | null, iteration: number): string[] {
  if (state === "died")
    return [
      `process ${owner!.pid} is gone without having ended the run (killed, or out of memory): go on with --resume`,
    ];
  if (state === "ended") return ["it failed: nobody runs it and it has no summary.json; logs/ says why"];
  if (state === "stopped") return [`it was stopped at iteration ${iteration}: go on with --resume`];
  return [];
}

function silence(seconds: number, metrics: RunFiles["metrics"]): string[] {
  const longest = Math.max(0, ...metrics.slice(-WINDOW).map((line) => line.iteration_seconds ?? 0));
  const limit = Math.max(LEAST_STALE_SECONDS, STALE_ITERATIONS * longest);
  return seconds <= limit
    ? []
    : [`no progress for ${Math.round(seconds)} s (expected some within ${Math.round(limit)} s)`];
}

/** What the run itself promises and its latest lines break. */
function brokenLimits({ config, metrics }: RunFiles): string[] {
  const latest = metrics.slice(-WINDOW);
  const worst = (key: string): number => Math.max(0, ...latest.map((line) => line[key] ?? 0));
  const problems: string[] = [];
  const gap = worst("sampling/actor_learner_logprob_gap/max");
  const limit = config.selftest.max_logprob_gap;
  if (limit !== null && gap > limit)
    problems.push(
      `actor and learner differ by ${gap.toExponential(1)} nats under the same weights, more than selftest.max_logprob_gap ${limit}`,
    );
  const staleness = worst("staleness/max");
  if (staleness > config.max_staleness)
    problems.push(`staleness ${staleness}, more than max_staleness ${config.max_staleness}`);
  const notNumbers = latest.filter((line) => line.loss === undefined && line["value/loss"] === undefined).length;
  if (notNumbers > 0) problems.push(`the loss was no number in ${notNumbers} of the last ${latest.length} iterations`);
  return problems;
}

function warningsOf({ config, metrics }: RunFiles, running: boolean): string[] {
  const latest = metrics.slice(-WINDOW);
  const last = latest.at(-1);
  if (last === undefined) return [];
  const sum = (key: string): number => latest.reduce((total, line) => total + (line[key] ?? 0), 0);
  const total = (prefix: string): number =>
    Object.entries(last).reduce((n, [key, value]) => (key.startsWith(prefix) ? n + value : n), 0);
  const groups = last.groups_received ?? 0;
  const warnings: string[] = [];
  const say = (happened: boolean, text: string): void => void (happened && warnings.push(text));
  say(sum("reward_errors") > 0, `${sum("reward_errors")} reward errors in the last ${latest.length} iterations`);
  say((last.skipped_updates ?? 0) > 0, `${last.skipped_updates} updates skipped: loss or gradient was not finite`);
  say(
    total("groups_refused_") > MUCH_REFUSED * groups,
    `${total("groups_refused_")} answers refused, beside ${groups} accepted`,
  );
  say(
    total("tasks_released_") > MUCH_REFUSED * groups,
    `${total("tasks_released_")} tasks leased again, beside ${groups} answered`,
  );
  say(
    running && (last.actors_live ?? config.actors.num) < config.actors.num,
    `${last.actors_live} of ${config.actors.num} actors live`,
  );
  say(
    sum("idle/learner") > MUCH_IDLE * latest.length,
    "the learner waits more than 90 % of the time: more or faster actors would help",
  );
  say(sum("frac_reward_zero_std") === latest.length, "all rewards of every group are equal: nothing to learn from");
  return warnings;
}

/** Newest progress: an iteration, an answer, a checkpoint. Logs grow in a hanging run too. */
function newestChangeMs(dir: string): number {
  const folders = [trajectoriesFolder(dir), checkpointsFolder(dir)].filter(existsSync);
  const within = folders.flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)));
  const files = [configFile(dir), metricsFile(dir), validationFile(dir), summaryFile(dir), ...folders, ...within];
  // a file may be renamed or pruned meanwhile
  return Math.max(...files.map((file) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0));
}
