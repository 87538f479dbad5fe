/**
 * An evaluation folder while it is written:
 *
 *   predictions.jsonl  appended as questions are answered, put in order at the end
 *   unfinished.json    settings and seconds spent so far; gone once there is
 *   metrics.json       settings and figures: the evaluation is whole
 *
 * So an evaluation that was cut goes on where it stopped, and one of other settings is refused.
 * Knows no models.
 */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { UserError } from "../../errors.js";
import { type Prediction, parsePredictions } from "./predictions.js";
import { type Mode, modes } from "./names.js";
import type { EVAL_VERSION } from "./read-results.js";
import type { ModeMetrics } from "../summary.js";

/** What metrics.json says besides figures. */
export interface EvalSettings {
  readonly version: typeof EVAL_VERSION;
  readonly model: string;
  readonly data: string;
  readonly n: number;
  readonly prompt: string;
  readonly questions_sha256: string;
  readonly prompt_sha256: string;
  readonly temperature: number;
  readonly max_new_tokens: number;
  readonly samples: number;
  readonly seed: number;
  readonly train_seed: number | null;
  readonly weights_sha256: string;
  /** Of the engines. */
  readonly device: "cpu" | "cuda";
  /** Of the engines' linear layers, keys and values. */
  readonly dtype: "float32" | "float16";
}

/** Spent so far, earlier sessions included. */
export interface Seconds {
  wall: number;
  /** On generating. */
  readonly modes: Partial<Record<Mode, number>>;
}

/** What unfinished.json has besides settings. */
interface Unfinished {
  readonly modes: readonly Mode[];
  readonly seconds: Seconds;
}

export interface EvalFolder {
  /** Kept from earlier sessions; whole questions only. */
  readonly kept: readonly Prediction[];
  readonly seconds: Seconds;
  /** True when there is nothing left to do. */
  readonly finished: boolean;
  append(predictions: readonly Prediction[]): void;
  finish(predictions: readonly Prediction[], figures: Partial<Record<Mode, ModeMetrics>>): void;
}

/** What must be equal for an evaluation to go on, and how it is said. */
const sameness = {
  version: "the version of the form",
  weights_sha256: "the model's weights (--model)",
  n: "the number of questions (--limit)",
  questions_sha256: "the questions (--data)",
  prompt: "--prompt",
  prompt_sha256: "the prompt's texts (--system, --prompt-suffix or --fewshot)",
  temperature: "--temperature",
  max_new_tokens: "--max-new-tokens",
  samples: "--samples",
  seed: "--seed",
  modes: "--modes",
  device: "--device",
  dtype: "--dtype",
} satisfies Partial<Record<keyof EvalSettings | "modes", string>>;

/**
 * Opens a new folder, or one of the same settings to go on with.
 * @param wanted the modes asked for, in the order of `modes`
 * @throws UserError when the folder holds something else, saying what differs
 */
export function openEvalFolder(
  folder: string,
  settings: EvalSettings,
  wanted: readonly Mode[],
  overwrite: boolean,
): EvalFolder {
  if (existsSync(folder) && !statSync(folder).isDirectory())
    throw new UserError(`--out ${folder}: expected a folder or nothing, found a file. Choose another name.`);
  mkdirSync(folder, { recursive: true });
  const [predictionsFile, unfinishedFile, metricsFile] = ["predictions.jsonl", "unfinished.json", "metrics.json"].map(
    (name) => join(folder, name),
  ) as [string, string, string];
  if (overwrite) for (const file of [metricsFile, unfinishedFile, predictionsFile]) rmSync(file, { force: true });

  const finished = existsSync(metricsFile);
  const earlier = finished ? metricsFile : unfinishedFile;
  const seconds: Seconds = { wall: 0, modes: {} };
  let kept: Prediction[] = [];
  if (existsSync(earlier)) {
    const stored = readJson(earlier) as Partial<EvalSettings & Unfinished & Record<Mode, object>>;
    const begun = stored.modes ?? modes.filter((mode) => stored[mode] !== undefined);
    // before there was a choice, neither was written
    const found = { device: "cpu", dtype: "float32", ...stored, modes: begun.join(",") };
    refuseOther(folder, found, { ...settings, modes: wanted.join(",") });
    seconds.wall = stored.seconds?.wall ?? 0;
    Object.assign(seconds.modes, stored.seconds?.modes);
    kept = wholeQuestions(existsSync(predictionsFile) ? parsePredictions(predictionsFile) : [], settings.samples);
  } else if (existsSync(predictionsFile)) {
    throw new UserError(
      `${folder}: expected an empty folder or an evaluation, found predictions.jsonl without unfinished.json or metrics.json. Choose another --out, or give --overwrite.`,
    );
  }
  const save = (): void => replace(unfinishedFile, { ...settings, modes: wanted, seconds } satisfies Unfinished);
  if (!finished) {
    replaceText(predictionsFile, linesOf(kept));
    save();
  }
  return {
    kept,
    seconds,
    finished,
    append(predictions) {
      appendFileSync(predictionsFile, linesOf(predictions));
      save();
    },
    finish(predictions, figures) {
      replaceText(predictionsFile, linesOf(predictions));
      replace(metricsFile, { ...settings, wall_seconds: seconds.wall, ...figures });
      rmSync(unfinishedFile, { force: true });
    },
  };
}

type Value = string | number | undefined;
type Comparable = Partial<Record<keyof typeof sameness, Value>>;

function refuseOther(folder: string, stored: Comparable, settings: Comparable): void {
  const differences = (Object.keys(sameness) as (keyof typeof sameness)[])
    .filter((key) => stored[key] !== settings[key])
    .map((key) => `${sameness[key]} (${brief(stored[key])}, now ${brief(settings[key])})`);
  if (differences.length > 0)
    throw new UserError(
      `${folder} holds an evaluation that differs in ${differences.join(", ")}. Choose another --out, or give --overwrite.`,
    );
}

/** Hashes by their first digits. */
function brief(value: Value): string {
  return String(value ?? "nothing").replace(/^([0-9a-f]{12})[0-9a-f]{52}$/, "$1");
}

/** A question counts once all its samples are there. */
function wholeQuestions(predictions: readonly Prediction[], samples: number): Prediction[] {
  const counts = new Map<string, number>();
  const key = ({ mode, index }: Prediction): string => `${mode}/${index}`;
  for (const prediction of predictions) counts.set(key(prediction), (counts.get(key(prediction)) ?? 0) + 1);
  return predictions.filter((p) => counts.get(key(p)) === (p.mode === "greedy" ? 1 : samples));
}

const linesOf = (predictions: readonly Prediction[]): string =>
  predictions.map((prediction) => `${JSON.stringify(prediction)}\n`).join("");

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    throw new UserError(`${file}: expected JSON, found something else. Choose another --out, or give --overwrite.`);
  }
}

const replace = (file: string, value: object): void => replaceText(file, `${JSON.stringify(value, null, 2)}\n`);

/** A reader finds the old file or the new one, never half of one. */
function replaceText(file: string, text: string): void {
  writeFileSync(`${file}.tmp`, text);
  renameSync(`${file}.tmp`, file);
}
