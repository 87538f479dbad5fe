/**
 * `study`: the whole experiment of a study file: baseline, then for each seed and algorithm
 * training and evaluation, then comparison and report. What is finished is skipped, so that it goes
 * on wherever it was stopped.
 */
import { mkdirSync } from "node:fs";
import { constants } from "node:os";
import { join, resolve } from "node:path";
import { SingleBar } from "cli-progress";
import { packageRoot, shortPath } from "../config/load.js";
import { UserError } from "../errors.js";
import { clock } from "../launcher/render.js";
import { claimOwnership } from "../run/owner.js";
import { writeJson } from "../files.js";
import { writeReport } from "./report.js";
import { startChild } from "../study/child.js";
import { compareStudy } from "../study/comparison.js";
import { type Study, readStudy } from "../study/definition.js";
import { comparisonFile, recordStudy } from "../study/directory.js";
import { type Step, planSteps } from "../study/steps.js";
import { differencesText, studyText } from "../study/text.js";

export interface StudyOptions {
  /** Directory of the study; default studies/<name>. */
  readonly out?: string;
  /** Print what would be done. */
  readonly dryRun?: true;
}

const POLL_MS = 1000;
/** Between two lines of progress where there is no terminal. */
const LINE_MS = 30_000;

/**
 * @returns exit code: 0, or 128 + signal number when a signal ended it
 * @throws UserError for a study that cannot be run, and when a step fails
 */
export async function runStudy(file: string, { out, dryRun }: StudyOptions): Promise<number> {
  const study = readStudy(file);
  const dir = resolve(out ?? join("studies", study.definition.name));
  const steps = planSteps(dir, file, study);
  if (dryRun) {
    console.log(planText(dir, study, steps));
    return 0;
  }
  mkdirSync(dir, { recursive: true });
  const disown = claimOwnership(dir, join(dir, "owner.json"), "choose another directory with --out DIR");
  try {
    const note = recordStudy(dir, study);
    console.log(headText(dir, study, steps));
    if (note !== null) console.log(note);
    const code = await runSteps(dir, steps);
    if (code !== 0) return code;
    const comparison = compareStudy(dir);
    writeJson(comparisonFile(dir), comparison);
    console.log(`\n${studyText(comparison, study.differences)}\n`);
    console.log(`Report: ${shortPath(writeReport(dir))}`);
    return 0;
  } finally {
    disown();
  }
}

function headText(dir: string, { definition, differences }: Study, steps: readonly Step[]): string {
  const finished = steps.filter((step) => step.isFinished()).length;
  return [
    `Study ${definition.name} in ${shortPath(dir)}: ${Object.keys(definition.algorithms).join(", ")}; seeds ${definition.seeds.join(", ")}; ${steps.length} steps, ${finished} finished`,
    ...differencesText(differences),
  ].join("\n");
}

function planText(dir: string, study: Study, steps: readonly Step[]): string {
  const left = secondsLeft(steps);
  return [
    headText(dir, study, steps),
    ...steps.map((step, i) => {
      if (step.isFinished()) return `[${i + 1}/${steps.length}] ${step.name}: finished`;
      const { script, args } = step.command();
      return `[${i + 1}/${steps.length}] ${step.name}: node dist/${script}.js ${args.map(quoted).join(" ")}`;
    }),
    left === null
      ? "Time: unknown until a step of each sort is finished."
      : `Time left: about ${clock(left * 1000)}, by the finished steps.`,
  ].join("\n");
}

function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

async function runSteps(dir: string, steps: readonly Step[]): Promise<number> {
  let signalled: NodeJS.Signals | undefined;
  let forward: (signal: NodeJS.Signals) => void = () => {};
  const onSignal = (signal: NodeJS.Signals): void => {
    if (signalled === undefined)
      console.log(`${signal}: stopping the step at hand (training writes a checkpoint). Once more kills it at once.`);
    signalled ??= signal;
    forward(signal);
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, onSignal);
  try {
    for (const [i, step] of steps.entries()) {
      if (step.isFinished()) continue;
      const label = `[${i + 1}/${steps.length}] ${step.name}`;
      const { script, args } = step.command();
      const log = join(dir, "logs", `${step.name}.log`);
      const child = startChild(join(packageRoot, `dist/${script}.js`), args, log);
      forward = child.signal;
      const progress = showProgress(label, step, steps);
      const failure = await child.ended;
      progress.stop();
      if (signalled !== undefined) {
        console.log(`Stopped at ${label}. The same command goes on from there.`);
        return 128 + constants.signals[signalled];
      }
      if (failure !== null)
        throw new UserError(`${label} ${failure}\nMend the cause, then give the same command: it goes on from there.`);
      if (!step.isFinished()) throw new UserError(`${label} ended without its results. Its log: ${log}`);
      console.log(`${label}: ${clock(progress.elapsedMs())}`);
    }
    return 0;
  } finally {
    for (const signal of signals) process.off(signal, onSignal);
  }
}

/** Shows a step and the time left: a bar on a terminal, a line now and then elsewhere. */
function showProgress(
  label: string,
  step: Step,
  steps: readonly Step[],
): { stop: () => void; elapsedMs: () => number } {
  const started = performance.now();
  const before = step.done();
  const elapsedMs = (): number => performance.now() - started;
  const left = (): string => {
    const done = step.done();
    const pace = done > before ? elapsedMs() / 1000 / (done - before) : undefined;
    const seconds = secondsLeft(
      steps,
      step,
      pace === undefined ? undefined : pace * Math.max(0, (step.size ?? done) - done),
    );
    return seconds === null ? "unknown" : clock(seconds * 1000);
  };
  if (!process.stderr.isTTY) {
    const timer = setInterval(
      () =>
        console.log(
          `${label}: ${step.done()}${step.size === null ? "" : ` of ${step.size}`}, time left of the study ${left()}`,
        ),
      LINE_MS,
    );
    return { stop: () => clearInterval(timer), elapsedMs };
  }
  const bar = new SingleBar({
    format: `${label} {bar} {value}/{total}  time left of the study {left}`,
    hideCursor: true,
    stream: process.stderr,
    clearOnComplete: true,
  });
  bar.start(step.size ?? 0, before, { left: left() });
  const timer = setInterval(() => bar.update(step.done(), { left: left() }), POLL_MS);
  const stop = (): void => {
    clearInterval(timer);
    bar.stop();
  };
  return { stop, elapsedMs };
}

/**
 * Seconds until the last step is done, by what finished steps of the same sort took; null while one
 * sort has none.
 * @param current the step at hand and what is known of its own rest
 */
function secondsLeft(steps: readonly Step[], current?: Step, currentSeconds?: number): number | null {
  const known = new Map<string, number[]>();
  const open = steps.filter((step) => {
    if (step === current || !step.isFinished()) return true;
    known.set(step.sort, [...(known.get(step.sort) ?? []), step.seconds()]);
    return false;
  });
  const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;
  const estimates = open.map((step) => {
    if (step === current && currentSeconds !== undefined) return currentSeconds;
    const same = known.get(step.sort);
    const alike =
      same ?? [...known].filter(([sort]) => sort.split(" ")[0] === step.sort.split(" ")[0]).flatMap(([, s]) => s);
    return alike.length === 0 ? null : mean(alike);
  });
  return estimates.includes(null) ? null : estimates.reduce<number>((sum, x) => sum + x!, 0);
}
