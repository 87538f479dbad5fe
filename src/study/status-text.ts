/** Where a run or a study is and whether it is well, as lines or as JSON. */
import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { setTimeout } from "node:timers/promises";
import logUpdate from "log-update";
import { UserError } from "../errors.js";
import { clock, percent, whole } from "../terminal/format.js";
import { isEvalDir } from "../eval/folder/read-results.js";
import { isRunDir } from "../run/records.js";
import { type Owner, readOwner } from "../run/owner.js";
import { type Status, runStatus } from "../run/health.js";
import { type StudyRecord, comparisonFile, readStudyRecord, runDirOf, studyFile } from "./directory.js";

export interface StatusOptions {
  readonly watch: boolean;
  readonly json: boolean;
}

const WATCH_MS = 2_000;

/** @returns true when running well, or finished @throws UserError when a file is damaged */
export async function showStatus(dir: string, { watch, json }: StatusOptions): Promise<boolean> {
  for (;;) {
    const answer = look(dir);
    const text = json ? JSON.stringify(answer.json) : answer.lines.join("\n");
    if (watch && process.stdout.isTTY && !json) logUpdate(text);
    else console.log(text);
    if (!watch || !answer.running) return answer.healthy;
    await setTimeout(WATCH_MS);
  }
}

function look(given: string) {
  const dir = resolve(given);
  if (existsSync(studyFile(dir))) return lookAtStudy(dir, readStudyRecord(dir));
  if (!isRunDir(dir))
    throw new UserError(
      `${given}: expected the directory of a run (config.json) or of a study (study.json), found neither. Check the path.`,
    );
  const status = runStatus(dir);
  return {
    lines: runLines(status),
    json: status,
    healthy: status.problems.length === 0,
    running: status.state === "running",
  };
}

function lookAtStudy(dir: string, { definition }: StudyRecord) {
  const owner = readOwner(join(dir, "owner.json"));
  const { algorithms, seeds, eval: evaluation } = definition;
  const evaluated = (folder: string): boolean =>
    evaluation.prompts.length === 1
      ? isEvalDir(folder)
      : evaluation.prompts.every((prompt) => isEvalDir(join(folder, prompt)));
  const runs = seeds.flatMap((seed) =>
    Object.keys(algorithms).map((algorithm) => {
      const run = runDirOf(dir, algorithm, seed);
      return {
        name: basename(run),
        status: isRunDir(run) ? runStatus(run) : null,
        evaluated: evaluated(join(run, "eval")),
      };
    }),
  );
  const baseline = evaluated(join(dir, "baseline"));
  const compared = existsSync(comparisonFile(dir));
  const running = owner !== null && owner.state !== "dead";
  const done = runs.filter((run) => run.evaluated).length;
  const problems = [
    ...(running || compared
      ? []
      : ["nobody runs it and it has no comparison.json: start the same study again, it goes on where it stopped"]),
    // while the study goes on, a run may lie stopped between two sessions: the study's own matter
    ...runs.flatMap(({ name, status }) =>
      status === null || (running && status.state !== "running")
        ? []
        : status.problems.map((problem) => `${name}: ${problem}`),
    ),
  ];
  return {
    lines: [
      `study ${definition.name}: ${running ? `running (${holder(owner)})` : compared ? "finished" : "not running"}; ${done} of ${runs.length} runs trained and evaluated`,
      `  baseline ${baseline ? "evaluated" : "not evaluated yet"}`,
      ...runs.flatMap(({ name, status, evaluated }) =>
        status === null
          ? [`  ${name}: not begun`]
          : evaluated
            ? [`  ${name}: finished and evaluated`]
            : runLines(status).map((line) => `  ${line}`),
      ),
      ...problems.map((problem) => `  PROBLEM ${problem}`),
    ],
    json: { study: definition.name, running, owner, baseline, compared, runs, problems },
    healthy: problems.length === 0,
    running,
  };
}

function runLines(status: Status): string[] {
  const { name, state, owner, algo, seed, iteration, max_steps } = status;
  const { seconds_per_iteration: pace, eta_seconds: eta } = status;
  const by = state === "running" ? ` (${holder(owner!)})` : "";
  const timing = [
    ...(pace === null ? [] : [`${pace.toPrecision(3)} s an iteration`]),
    ...(eta === null ? [] : [`left ${clock(eta)}`]),
    ...(state === "finished" ? [] : [`last change ${clock(status.silent_seconds)} ago`]),
  ];
  const numbers = [
    ...(status.reward === null ? [] : [`reward ${status.reward.toFixed(3)}`]),
    ...(status.accuracy === null ? [] : [`accuracy ${percent(status.accuracy)}`]),
    ...(status.tokens_per_second === null ? [] : [`tokens/s ${whole(status.tokens_per_second)}`]),
  ];
  return [
    `${name}: ${state}${by}, ${algo.toUpperCase()}, seed ${seed}, step ${iteration}/${max_steps}`,
    ...[timing, numbers].filter((list) => list.length > 0).map((list) => `  ${list.join("   ")}`),
    ...status.problems.map((problem) => `  PROBLEM ${problem}`),
    ...status.warnings.map((warning) => `  note ${warning}`),
  ];
}

const holder = ({ host, pid, state }: Owner): string =>
  state === "elsewhere" ? `process ${pid} on ${host}` : `process ${pid}`;
