/**
 * Checkpoint folders: an HF model folder, plus what is needed to go on training
 * (`training_state.safetensors`, `training_state.json`), plus `checksums.json`. A folder appears
 * under its name only when it is whole: temporary name, fsync, checksums, rename. Knows files;
 * knows nothing about what the state means.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { UserError, messageOf } from "../errors.js";
import { readSafetensors, readTensor, writeSafetensors } from "../model/safetensors.js";
import { sha256OfFile } from "../model/weights.js";

export interface TrainingState {
  /** Flat vectors by name (optimizer moments, value head, reference-free state). */
  readonly vectors: Readonly<Record<string, Float32Array>>;
  /** JSON values: counters, cursors, schedule position. */
  readonly values: Readonly<Record<string, unknown>>;
}

const CHECKSUMS = "checksums.json";

/** `step-000120` for iteration 120. */
export function checkpointName(step: number): string {
  return `step-${String(step).padStart(6, "0")}`;
}

/**
 * Writes `<root>/step-NNNNNN`.
 * @param writeModel fills the folder it is given with the model's own files
 * @returns the folder
 */
export function saveCheckpoint(
  root: string,
  step: number,
  writeModel: (folder: string) => void,
  state: TrainingState,
): string {
  const folder = join(root, checkpointName(step));
  const temporary = `${folder}.tmp-${process.pid}`;
  rmSync(temporary, { recursive: true, force: true });
  mkdirSync(temporary, { recursive: true });
  writeModel(temporary);
  const tensors = Object.entries(state.vectors).map(([name, data]) => ({ name, shape: [data.length], data }));
  writeSafetensors(join(temporary, "training_state.safetensors"), tensors);
  writeFileSync(join(temporary, "training_state.json"), `${JSON.stringify(state.values, null, 2)}\n`);
  const sums = Object.fromEntries(
    readdirSync(temporary)
      .sort()
      .map((name) => [name, sha256OfFile(join(temporary, name))]),
  );
  writeFileSync(join(temporary, CHECKSUMS), `${JSON.stringify(sums, null, 2)}\n`);
  for (const name of [...Object.keys(sums), CHECKSUMS, "."]) {
    const fd = openSync(join(temporary, name), "r");
    fsyncSync(fd);
    closeSync(fd);
  }
  rmSync(folder, { recursive: true, force: true });
  renameSync(temporary, folder);
  return folder;
}

/**
 * Steps of the whole checkpoints under `root`, ascending. Unfinished ones (temporary names) are not
 * among them.
 */
export function listCheckpoints(root: string): number[] {
  if (!existsSync(root)) return [];
  return readdirSync(root)
    .flatMap((name) => /^step-(\d{6,})$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
}

/** Deletes all but the newest `keep` checkpoints, and what a killed process left half written. */
export function pruneCheckpoints(root: string, keep: number): void {
  for (const name of readdirSync(root))
    if (name.includes(".tmp-")) rmSync(join(root, name), { recursive: true, force: true });
  for (const step of listCheckpoints(root).slice(0, -keep))
    rmSync(join(root, checkpointName(step)), { recursive: true, force: true });
}

/**
 * Reads the training state of a checkpoint, every file checked against its checksum first.
 * @throws UserError naming the damaged or missing file
 */
export function loadTrainingState(folder: string): TrainingState {
  let sums: Record<string, string>;
  try {
    sums = JSON.parse(readFileSync(join(folder, CHECKSUMS), "utf8")) as Record<string, string>;
  } catch (error) {
    throw new UserError(
      `${join(folder, CHECKSUMS)}: expected the checksums of a checkpoint, found none that can be read (${messageOf(error)}). Resume from an older checkpoint: delete this folder.`,
    );
  }
  for (const [name, expected] of Object.entries(sums)) {
    const file = join(folder, name);
    const found = existsSync(file) ? sha256OfFile(file) : "no file";
    if (found !== expected)
      throw new UserError(
        `${file}: expected sha256 ${expected}, found ${found}. Resume from an older checkpoint: delete ${folder}.`,
      );
  }
  const stored = readSafetensors(join(folder, "training_state.safetensors"));
  const vectors = Object.fromEntries([...stored.values()].map((tensor) => [tensor.name, readTensor(tensor)]));
  const values = JSON.parse(readFileSync(join(folder, "training_state.json"), "utf8")) as Record<string, unknown>;
  return { vectors, values };
}
