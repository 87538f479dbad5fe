/** Runs the whole experiment of a study file. What is finished is skipped. */
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { packageRoot, shortPath } from "../config/load.js";
import { UserError } from "../errors.js";
import { writeJson } from "../files.js";
import { mean, sum } from "../math/statistics.js";
import { clock, shellWord } from "../terminal/format.js";
import { showProgress } from "../terminal/progress-bar.js";
import { heedSignals } from "../run/children.js";
import { claimOwnership } from "../run/owner.js";
import { startChild } from "./step-process.js";
import { compareStudy } from "./comparison.js";
import { type Study, readStudy } from "./definition.js";
import { comparisonFile, recordStudy } from "./directory.js";
import { type StudyStep, planSteps } from "./steps.js";
import { differencesText, studyText } from "./text.js";

export interface StudyOptions {
  readonly out?: string;
  readonly dryRun?: true;
}

const POLL_MS = 1000;
/** Between two lines of progress where there is no terminal. */
const LINE_MS = 30_000;

/** @returns 0, or 128 + a signal's number @throws UserError when it cannot run or a step fails */
export async function runStudy(
  file: string,
  { out, dryRun }: StudyOptions,
  writeReport: (dir: string) => string,
): Promise<number> {
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

function headText(dir: string, { definition, differences }: Study, steps: readonly StudyStep[]): string {
  const finished = steps.filter((step) => step.isFinished()).length;
  return [
    `Study ${definition.name} in ${shortPath(dir)}: ${Object.keys(definition.algorithms).join(", ")}; seeds ${definition.seeds.join(", ")}; ${steps.length} steps, ${finished} finished`,
    ...differencesText(differences),
  ].join("\n");
}

function planText(dir: string, study: Study, steps: readonly StudyStep[]): string {
  const left = secondsLeft(steps);
  return [
    headText(dir, study, steps),
    ...steps.map((step, i) => {
      if (step.isFinished()) return `[${i + 1}/${steps.length}] ${step.name}: finished`;
      const { script, args } = step.command();
      return `[${i + 1}/${steps.length}] ${step.name}: node dist/${script}.js ${args.map(shellWord).join(" ")}`;
    }),
    left === null
      ? "Time: unknown until a step of each sort is finished."
      : `Time left: about ${clock(left)}, by the finished steps.`,
  ].join("\n");
}

async function runSteps(dir: string, steps: readonly StudyStep[]): Promise<number> {
  let pass: (signal: NodeJS.Signals) => void = () => {};
  const signals = heedSignals(
    (signal) => {
      console.log(`${signal}: stopping the step at hand (training writes a checkpoint). Once more kills it at once.`);
      pass(signal);
    },
    (signal) => pass(signal),
  );
  try {
    for (const [i, step] of steps.entries()) {
      if (step.isFinished()) continue;
      const label = `[${i + 1}/${steps.length}] ${step.name}`;
      const { script, args } = step.command();
      const log = join(dir, "logs", `${step.name}.log`);
      const child = startChild(join(packageRoot, `dist/${script}.js`), args, log);
      pass = child.signal;
      const started = performance.now();
      const stopShowing = showStep(label, step, steps);
      const failure = await child.ended;
      stopShowing();
      const stopped = signals.exitCode();
      if (stopped !== undefined) {
        console.log(`Stopped at ${label}. The same command goes on from there.`);
        return stopped;
      }
      if (failure !== null)
        throw new UserError(`${label} ${failure}\nMend the cause, then give the same command: it goes on from there.`);
      if (!step.isFinished()) throw new UserError(`${label} ended without its results. Its log: ${log}`);
      console.log(`${label}: ${clock((performance.now() - started) / 1000)}`);
    }
    return 0;
  } finally {
    signals.release();
  }
}

/** Shows a step and the time left of the study. @returns what ends it */
function showStep(label: string, step: StudyStep, steps: readonly StudyStep[]): () => void {
  const started = performance.now();
  const before = step.done();
  const left = (done: number): string => {
    const pace = done > before ? (performance.now() - started) / 1000 / (done - before) : undefined;
    const rest = pace === undefined ? undefined : pace * Math.max(0, (step.size ?? done) - done);
    const seconds = secondsLeft(steps, step, rest);
    return seconds === null ? "unknown" : clock(seconds);
  };
  const of = step.size === null ? "" : `/${step.size}`;
  const progress = showProgress({
    name: label,
    total: step.size ?? 0,
    present: before,
    text: (done) => `${done}${of}  time left of the study ${left(done)}`,
    everyMs: LINE_MS,
  });
  const timer = setInterval(() => progress.update(step.done()), POLL_MS);
  return () => {
    clearInterval(timer);
    progress.stop();
  };
}

/** Extrapolates from finished steps of the same sort; null while one sort has none. */
function secondsLeft(steps: readonly StudyStep[], current?: StudyStep, currentSeconds?: number): number | null {
  const finished = steps.filter((step) => step !== current && step.isFinished());
  const known = finished.map((step) => ({ sort: step.sort, seconds: step.seconds() }));
  const estimates = steps
    .filter((step) => !finished.includes(step))
    .map((step) => {
      if (step === current && currentSeconds !== undefined) return currentSeconds;
      const same = known.filter(({ sort }) => sort === step.sort);
      const alike = known.filter(({ sort }) => sort.split(" ")[0] === step.sort.split(" ")[0]);
      return mean((same.length > 0 ? same : alike).map(({ seconds }) => seconds));
    });
  const left = sum(estimates);
  return Number.isNaN(left) ? null : left;
}
