/** Checkpoint folders with checksums; each appears under its name only when whole and on disk. */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError, asUserError } from "../errors.js";
import { fsyncPath, jsonOf, readJson, writeJson } from "../files.js";
import { sha256OfFile } from "../model/identity.js";
import { readSafetensors, readTensor } from "../model/safetensors/read.js";
import { writeSafetensors } from "../model/safetensors/write.js";
import { checkpointFolder, checkpointsFolder, numbersOf } from "./paths.js";

export interface TrainingState {
  /** Flat vectors by name (weights, optimizer moments). */
  readonly vectors: Readonly<Record<string, Float32Array>>;
  /** JSON values: counters, cursors, schedule position. */
  readonly values: Readonly<Record<string, unknown>>;
}

const CHECKSUMS = "checksums.json";
const VECTORS = "training_state.safetensors";
const VALUES = "training_state.json";

/** The file of a checkpoint's JSON values. */
export const valuesFile = (runDir: string, step: number): string => join(checkpointFolder(runDir, step), VALUES);

/** `writeModel` fills the folder it is given with the model's own files. */
export function saveCheckpoint(
  runDir: string,
  step: number,
  writeModel: (folder: string) => void,
  state: TrainingState,
): void {
  const folder = checkpointFolder(runDir, step);
  const temporary = `${folder}.tmp-${process.pid}`;
  const tensors = Object.entries(state.vectors).map(([name, data]) => ({ name, shape: [data.length], data }));
  mkdirSync(temporary, { recursive: true });
  checkRoom(temporary, 4 * tensors.reduce((sum, { data }) => sum + data.length, 0));
  try {
    writeModel(temporary);
    writeSafetensors(join(temporary, VECTORS), tensors);
    writeJson(join(temporary, VALUES), state.values);
    const names = readdirSync(temporary).sort();
    const sums = names.map((name) => [name, sha256OfFile(join(temporary, name))]);
    writeJson(join(temporary, CHECKSUMS), Object.fromEntries(sums));
    for (const name of [...names, "."]) fsyncPath(join(temporary, name));
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw asUserError(error, temporary);
  }
  // what stood under the name goes only when the new one has it
  if (existsSync(folder)) renameSync(folder, `${temporary}.old`);
  renameSync(temporary, folder);
  fsyncPath(checkpointsFolder(runDir));
  removeUnfinished(runDir);
}

/** @throws UserError where the bytes would not fit: better before writing than in the middle */
function checkRoom(folder: string, bytes: number): void {
  const { bavail, bsize } = statfsSync(folder);
  if (bytes > bavail * bsize)
    throw new UserError(
      `${folder}: expected room for a checkpoint of ${megabytes(bytes)}, found ${megabytes(bavail * bsize)}. Free some, then go on with --resume.`,
    );
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

/** Removes what a killed process left half written. */
function removeUnfinished(runDir: string): void {
  const root = checkpointsFolder(runDir);
  if (!existsSync(root)) return;
  for (const name of readdirSync(root))
    if (name.includes(".tmp-")) rmSync(join(root, name), { recursive: true, force: true });
}

/** A run's last checkpoint, or that of a step. @throws UserError when it is not there */
export function checkpointOf(runDir: string, step?: number): string {
  const steps = listCheckpoints(runDir);
  const wanted = step ?? steps.at(-1);
  if (wanted !== undefined && steps.includes(wanted)) return checkpointFolder(runDir, wanted);
  throw new UserError(
    `${runDir}: expected ${step === undefined ? "a checkpoint" : `the checkpoint of step ${step}`}, found ${steps.length === 0 ? "none" : `those of ${steps.join(", ")}`}. ${steps.length === 0 ? "Let the run write one." : "Choose one with --checkpoint."}`,
  );
}

/** Steps of the whole checkpoints, ascending; unfinished ones have other names. */
export const listCheckpoints = (runDir: string): number[] => numbersOf(checkpointsFolder(runDir), /^step-(\d{6,})$/);

/** Deletes all but the newest `keep` checkpoints. */
export function pruneCheckpoints(runDir: string, keep: number): void {
  for (const step of listCheckpoints(runDir).slice(0, -keep))
    rmSync(checkpointFolder(runDir, step), { recursive: true, force: true });
}

/** The checkpoint to go on from; removes what was left half written. @throws as loadNewest */
export function resumable(runDir: string, note: (message: string) => void): ReturnType<typeof loadNewest> {
  removeUnfinished(runDir);
  return loadNewest(runDir, note);
}

/**
 * Reads the newest checkpoint that is sound; damaged ones are named and passed over.
 * @param before only those of earlier steps
 * @returns null when there is none at all
 * @throws UserError when every one is damaged, with the newest one's damage
 */
export function loadNewest(
  runDir: string,
  note: (message: string) => void,
  before = Infinity,
): { step: number; state: TrainingState } | null {
  let first: UserError | null = null;
  for (const step of listCheckpoints(runDir).toReversed()) {
    if (step >= before) continue;
    try {
      return { step, state: loadTrainingState(runDir, step) };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      first ??= error;
      note(`damaged checkpoint passed over: ${error.message}`);
    }
  }
  if (first !== null) throw first;
  return null;
}

/** Checks every file's checksum first. @throws UserError naming the damaged or missing file */
function loadTrainingState(runDir: string, step: number): TrainingState {
  const folder = checkpointFolder(runDir, step);
  const cure = `Resume from an older checkpoint: delete ${folder}.`;
  const sums = readJson(join(folder, CHECKSUMS), z.record(z.string(), z.string()), cure);
  const unsummed = [VECTORS, VALUES, ...readdirSync(folder)].find((name) => name !== CHECKSUMS && !(name in sums));
  if (unsummed !== undefined)
    throw new UserError(`${join(folder, CHECKSUMS)}: expected a checksum of ${unsummed}, found none. ${cure}`);
  for (const [name, expected] of Object.entries(sums)) {
    const file = join(folder, name);
    const found = statSync(file, { throwIfNoEntry: false })?.isFile() === true ? sha256OfFile(file) : "no file";
    if (found !== expected) throw new UserError(`${file}: expected sha256 ${expected}, found ${found}. ${cure}`);
  }
  const stored = readSafetensors(join(folder, VECTORS));
  const vectors = Object.fromEntries([...stored.values()].map((tensor) => [tensor.name, readTensor(tensor)]));
  const values = jsonOf(readFileSync(valuesFile(runDir, step), "utf8")) as TrainingState["values"];
  return { vectors, values };
}
