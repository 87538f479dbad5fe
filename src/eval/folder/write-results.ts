/**
 * An evaluation folder while it is written. A cut one goes on; other settings are refused.
 *   predictions.jsonl  appended as questions are answered, put in order at the end
 *   unfinished.json    settings and time spent so far; deleted when metrics.json is written
 *   metrics.json       settings and figures: the evaluation is whole
 */
import { appendFileSync, existsSync, mkdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../errors.js";
import { readJson, writeJson, writeWhole } from "../../files.js";
import { type Mode, modes } from "./names.js";
import { type Prediction, parsePredictions } from "./predictions.js";
import type { ModeMetrics } from "./read-results.js";
import { type EvalSettings, comparable, differencesOf } from "./settings.js";

/** Least time between two records of the time spent: each waits for the disk. */
const SAVE_MS = 1000;

/** Seconds spent so far, earlier sessions included. */
const secondsSchema = z.object({ wall: z.number(), modes: z.partialRecord(z.enum(modes), z.number()) });

/** What unfinished.json has besides settings; metrics.json has neither. */
const unfinishedSchema = z.looseObject({ modes: z.array(z.enum(modes)).optional(), seconds: secondsSchema.optional() });

export type EvalFolder = ReturnType<typeof openEvalFolder>;

/** Opens a new folder, or goes on in one. @throws UserError when its settings differ */
export function openEvalFolder(folder: string, settings: EvalSettings, wanted: readonly Mode[], overwrite: boolean) {
  if (existsSync(folder) && !statSync(folder).isDirectory())
    throw new UserError(`--out ${folder}: expected a folder or nothing, found a file. Choose another name.`);
  mkdirSync(folder, { recursive: true });
  const [predictionsFile, unfinishedFile, metricsFile] = ["predictions.jsonl", "unfinished.json", "metrics.json"].map(
    (name) => join(folder, name),
  ) as [string, string, string];
  if (overwrite) for (const file of [metricsFile, unfinishedFile, predictionsFile]) rmSync(file, { force: true });

  const finished = existsSync(metricsFile);
  const earlier = finished ? metricsFile : unfinishedFile;
  let seconds: z.infer<typeof secondsSchema> = { wall: 0, modes: {} };
  let kept: Prediction[] = [];
  if (existsSync(earlier)) {
    const stored = readJson(earlier, unfinishedSchema, "Choose another --out, or give --overwrite.");
    const begun = stored.modes ?? modes.filter((mode) => stored[mode] !== undefined);
    // before there was a choice, neither was written
    const found = { device: "cpu", dtype: "float32", ...stored, modes: begun.join(",") };
    refuseOther(folder, found, { ...settings, modes: wanted.join(",") });
    seconds = stored.seconds ?? seconds;
    kept = wholeQuestions(existsSync(predictionsFile) ? parsePredictions(predictionsFile) : [], settings.samples);
  } else if (existsSync(predictionsFile)) {
    throw new UserError(
      `${folder}: expected an empty folder or an evaluation, found predictions.jsonl without unfinished.json or metrics.json. Choose another --out, or give --overwrite.`,
    );
  }
  let savedAt = Number.NEGATIVE_INFINITY;
  const save = (): void => writeJson(unfinishedFile, { ...settings, modes: wanted, seconds });
  if (!finished) {
    writeWhole(predictionsFile, linesOf(kept));
    save();
  }
  return {
    /** What earlier sessions wrote, whole questions only. */
    kept,
    seconds,
    finished,
    append(predictions: readonly Prediction[]): void {
      appendFileSync(predictionsFile, linesOf(predictions));
      if (performance.now() - savedAt < SAVE_MS) return;
      savedAt = performance.now();
      save();
    },
    finish(predictions: readonly Prediction[], figures: Partial<Record<Mode, ModeMetrics>>): void {
      writeWhole(predictionsFile, linesOf(predictions));
      writeJson(metricsFile, { ...settings, wall_seconds: seconds.wall, ...figures });
      rmSync(unfinishedFile, { force: true });
    },
  };
}

function refuseOther(folder: string, stored: object, settings: object): void {
  const differences = differencesOf(stored, settings, comparable, ", now ");
  if (differences.length > 0)
    throw new UserError(
      `${folder} holds an evaluation that differs in ${differences.join(", ")}. Choose another --out, or give --overwrite.`,
    );
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
