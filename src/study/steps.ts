/** A study's steps in order. Algorithms alternate by seed, so that a slower machine slows all. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { RunConfig } from "../config/schema.js";
import { readEvalResult } from "../eval/folder/read-results.js";
import { checkpointFolder, metricsFile } from "../run/paths.js";
import { readRunFiles } from "../run/records.js";
import { type Study, trainingWords } from "./definition.js";
import { evalDirOf, evalFile, evaluationState, runDirOf, trainingState } from "./directory.js";

export interface StudyStep {
  /** Names the log, such as "grpo-seed1" or "grpo-seed1-eval". */
  readonly name: string;
  /** Steps of one sort take about the same time: "train grpo", "eval". */
  readonly sort: string;
  /** Iterations, or completions; null when only the child knows. */
  readonly size: number | null;
  /** Read from files. @throws UserError when they are of something else */
  readonly isFinished: () => boolean;
  /** Iterations or completions that are on disk. */
  readonly done: () => number;
  readonly seconds: () => number;
  /** Script of dist/ and arguments; they depend on whether the step was begun. */
  readonly command: () => { readonly script: "launch" | "cli"; readonly args: readonly string[] };
}

/** @param file the study file, for messages */
export function planSteps(dir: string, file: string, study: Study): StudyStep[] {
  const { definition, configs } = study;
  const algorithms = Object.keys(definition.algorithms);
  const first = Object.values(configs)[0]!;
  return [
    ...evaluationSteps(dir, study, null, first.model.path, first),
    ...definition.seeds.flatMap((seed) =>
      algorithms.flatMap((algorithm) => {
        const config = { ...configs[algorithm]!, seed };
        const runDir = runDirOf(dir, algorithm, seed);
        const checkpoint = checkpointFolder(runDir, config.max_steps);
        return [
          trainingStep(study, algorithm, seed, runDir, file),
          ...evaluationSteps(dir, study, runDir, checkpoint, config, `${algorithm}-seed${seed}-`),
        ];
      }),
    ),
  ];
}

function trainingStep(
  { definition, configs }: Study,
  algorithm: string,
  seed: number,
  runDir: string,
  file: string,
): StudyStep {
  const config = { ...configs[algorithm]!, seed };
  const { algo, words } = trainingWords(definition, algorithm, file);
  const files = definition.config.flatMap((path) => ["--config", path]);
  const fresh = ["--algo", algo, ...files, "--run-dir", runDir, "--seed", String(seed), ...words];
  return {
    name: `${algorithm}-seed${seed}`,
    sort: `train ${algorithm}`,
    size: config.max_steps,
    isFinished: () => trainingState(runDir, config) === "finished",
    done: () => linesOf(metricsFile(runDir)),
    seconds: () => readRunFiles(runDir).summary!.wall_seconds,
    command: () => ({ script: "launch", args: trainingState(runDir, config) === "new" ? fresh : ["--resume", runDir] }),
  };
}

/** @param trained how training asks and where its actors compute: evaluation does so too */
function evaluationSteps(
  dir: string,
  { definition }: Study,
  runDir: string | null,
  model: string,
  trained: Pick<RunConfig, "data" | "max_completion_length" | "actors">,
  prefix = "",
): StudyStep[] {
  const { data, prompts, limit, samples, modes, temperature, seed } = definition.eval;
  const maxNewTokens = definition.eval.max_new_tokens ?? trained.max_completion_length;
  const { system_prompt: system, prompt_suffix: suffix } = trained.data;
  const { device, dtype, max_rows, segment_length } = trained.actors;
  // int8 is for sampling what is learned from; a model is judged by its own weights
  const engines = {
    device,
    dtype: dtype === "int8" ? "float32" : dtype,
    "max-rows": Math.max(max_rows, samples),
    "segment-length": segment_length,
  };
  const asTrained = { ...(system !== null && { system }), ...(suffix !== "" && { "prompt-suffix": suffix }) };
  const answers = (modes.includes("greedy") ? 1 : 0) + (modes.includes("sampled") ? samples : 0);
  return prompts.map((prompt): StudyStep => {
    const out = evalDirOf(dir, runDir, prompt, definition);
    const file = evalFile(dir, runDir, prompt, definition);
    return {
      name: `${prefix}${runDir === null ? "baseline" : "eval"}${prompts.length === 1 ? "" : `-${prompt}`}`,
      sort: "eval",
      size: limit === null ? null : limit * answers,
      isFinished: () =>
        evaluationState(out, { samples, seed, temperature, max_new_tokens: maxNewTokens }) === "finished",
      done: () => linesOf(join(out, "predictions.jsonl")),
      seconds: () => readEvalResult(file).wall_seconds,
      command: () => ({
        script: "cli",
        args: [
          "eval",
          ...wordsOf({ model, data, out, modes: modes.join(","), samples, temperature, seed }),
          ...wordsOf({ "max-new-tokens": maxNewTokens, ...(limit !== null && { limit }), ...engines }),
          ...wordsOf(prompt === "default" ? asTrained : { prompt }),
        ],
      }),
    };
  });
}

const wordsOf = (options: Readonly<Record<string, string | number>>): string[] =>
  Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]);

const linesOf = (file: string): number =>
  existsSync(file) ? readFileSync(file).reduce((count, byte) => count + (byte === 10 ? 1 : 0), 0) : 0;
