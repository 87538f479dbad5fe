/** Checkpoint folders with checksums; each appears under its name only when whole and on disk. */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.js";
import { fsyncPath, jsonOf, readJson } from "../files.js";
import { sha256OfFile } from "../model/identity.js";
import { readSafetensors, readTensor } from "../model/safetensors/read.js";
import { writeSafetensors } from "../model/safetensors/write.js";
import { checkpointFolder, checkpointStep, checkpointsFolder } from "./paths.js";

export interface TrainingState {
  /** Flat vectors by name (weights, optimizer moments). */
  readonly vectors: Readonly<Record<string, Float32Array>>;
  /** JSON values: counters, cursors, schedule position. */
  readonly values: Readonly<Record<string, unknown>>;
}

const CHECKSUMS = "checksums.json";
const VECTORS = "training_state.safetensors";
const VALUES = "training_state.json";

/** `writeModel` fills the folder it is given with the model's own files. */
export function saveCheckpoint(
  runDir: string,
  step: number,
  writeModel: (folder: string) => void,
  state: TrainingState,
): void {
  const folder = checkpointFolder(runDir, step);
  const temporary = `${folder}.tmp-${process.pid}`;
  const write = (name: string, value: unknown): void =>
    writeFileSync(join(temporary, name), `${JSON.stringify(value, null, 2)}\n`);
  rmSync(temporary, { recursive: true, force: true });
  mkdirSync(temporary, { recursive: true });
  writeModel(temporary);
  const tensors = Object.entries(state.vectors).map(([name, data]) => ({ name, shape: [data.length], data }));
  writeSafetensors(join(temporary, VECTORS), tensors);
  write(VALUES, state.values);
  const names = readdirSync(temporary).sort();
  write(CHECKSUMS, Object.fromEntries(names.map((name) => [name, sha256OfFile(join(temporary, name))])));
  for (const name of [...names, CHECKSUMS, "."]) fsyncPath(join(temporary, name));
  rmSync(folder, { recursive: true, force: true });
  renameSync(temporary, folder);
}

/** Steps of the whole checkpoints, ascending; unfinished ones have other names. */
export function listCheckpoints(runDir: string): number[] {
  const root = checkpointsFolder(runDir);
  if (!existsSync(root)) return [];
  return readdirSync(root)
    .flatMap((name) => checkpointStep(name) ?? [])
    .sort((a, b) => a - b);
}

/** Deletes all but the newest `keep` checkpoints, and what a killed process left half written. */
export function pruneCheckpoints(runDir: string, keep: number): void {
  const root = checkpointsFolder(runDir);
  for (const name of readdirSync(root))
    if (name.includes(".tmp-")) rmSync(join(root, name), { recursive: true, force: true });
  for (const step of listCheckpoints(runDir).slice(0, -keep))
    rmSync(checkpointFolder(runDir, step), { recursive: true, force: true });
}

/** Checks every file's checksum first. @throws UserError naming the damaged or missing file */
export function loadTrainingState(runDir: string, step: number): TrainingState {
  const folder = checkpointFolder(runDir, step);
  const cure = `Resume from an older checkpoint: delete ${folder}.`;
  const sums = readJson(join(folder, CHECKSUMS), z.record(z.string(), z.string()), cure);
  for (const [name, expected] of Object.entries(sums)) {
    const file = join(folder, name);
    const found = existsSync(file) ? sha256OfFile(file) : "no file";
    if (found !== expected) throw new UserError(`${file}: expected sha256 ${expected}, found ${found}. ${cure}`);
  }
  const stored = readSafetensors(join(folder, VECTORS));
  const vectors = Object.fromEntries([...stored.values()].map((tensor) => [tensor.name, readTensor(tensor)]));
  const values = jsonOf(readFileSync(join(folder, VALUES), "utf8")) as TrainingState["values"];
  return { vectors, values };
}
