/** What a run reads and keeps no copy of, by the sha256 of its content, wherever that lies. */
import { createHash } from "node:crypto";
import { readFileSync, realpathSync, statSync } from "node:fs";
import { dirname, isAbsolute, resolve } from "node:path";
import { z } from "zod";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { readJson } from "../files.js";
import { readModelConfig } from "../model/config.js";
import { hashLine, hashOfLines } from "../model/identity.js";
import { modelTensors } from "../model/model-weights.js";
import { readWeight } from "../model/safetensors/read.js";
import { tokenizerContent } from "../model/tokenizer.js";
import { loadDataset } from "../tasks/dataset.js";
import { listCheckpoints, valuesFile } from "./checkpoint.js";

interface Input {
  readonly name: string;
  /** What a message names beside it. */
  readonly where: string;
  readonly sha256: string;
}

/** Inputs by name, as a checkpoint's values hold them. */
export const savedInputs = z.record(z.string(), z.string()).optional();

const hashOf = (texts: Iterable<string>): string => {
  const hash = createHash("sha256");
  for (const text of texts) hash.update(`${text}\n`);
  return hash.digest("hex");
};

/** @param weightsSha256 hash of the base, where it is known; null leaves the weights out */
export function modelInputs(folder: string, weightsSha256?: string | null): Input[] {
  const shape = readModelConfig(folder);
  const lines = () => modelTensors(folder, shape).map(({ entry, stored }) => hashLine(entry, readWeight(stored)));
  const settings = Object.entries(shape).map((setting) => JSON.stringify(setting));
  const input = (name: string, sha256: string): Input => ({ name, where: folder, sha256 });
  return [
    ...(weightsSha256 === null ? [] : [input("the base model's weights", weightsSha256 ?? hashOfLines(lines()))]),
    input("the model's config.json", hashOf(settings.sort())),
    input("the tokenizer", hashOf([JSON.stringify(tokenizerContent(folder))])),
  ];
}

/** Hashes the rows as they were read; the numbers of lines and the file's name are none of them. */
export function dataInput(name: string, spec: string, split: "train" | "validation"): Input {
  // generated problems have a name alone
  if (/^starter(-test)?$/.test(spec)) return { name, where: spec, sha256: hashOf([spec]) };
  const data = loadDataset(spec, split);
  const rows = Array.from({ length: data.size }, (_, i) => JSON.stringify({ ...data.problem(i), id: undefined }));
  return { name, where: spec, sha256: hashOf(rows) };
}

export function runInputs(run: RunConfig, weightsSha256?: string | null): Input[] {
  const modules = run.reward.functions.map(({ name }) => name).filter((name) => isAbsolute(name));
  return [
    ...modelInputs(run.model.path, weightsSha256 ?? undefined),
    dataInput("data.train", run.data.train, "train"),
    dataInput("data.validation", run.data.validation, "validation"),
    ...modules.map((file) => ({ name: `the reward module ${file}`, where: file, sha256: hashOf(moduleTexts(file)) })),
  ];
}

/** A module's text and those of the modules that it imports by a path, in their order. */
function moduleTexts(path: string, seen = new Set<string>()): string[] {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) return [];
  const file = realpathSync(path);
  if (seen.has(file)) return [];
  seen.add(file);
  const text = readFileSync(file, "utf8");
  const imported = text.matchAll(/\b(?:from|import|require)\s*\(?\s*["'](\.{0,2}\/[^"'?#]+)/g);
  return [text, ...[...imported].flatMap(([, found]) => moduleTexts(resolve(dirname(file), found!), seen))];
}

/**
 * Compares inputs with a checkpoint's; `note` hears what was accepted or could not be compared.
 * @throws UserError naming every input that has changed, unless `isAccepted`
 */
export function compareInputs(
  saved: z.infer<typeof savedInputs>,
  now: readonly Input[],
  isAccepted: boolean,
  note: (message: string) => void,
): void {
  if (saved === undefined) {
    note("The checkpoint is of an earlier release: whether model, data and rewards have changed cannot be told.");
    return;
  }
  const changed = now.flatMap(({ name, where, sha256 }) => {
    const before = saved[name] ?? "none";
    const place = name.includes(where) ? name : `${name} (${where})`;
    return before === sha256 ? [] : [`${place}: expected sha256 ${before.slice(0, 12)}, found ${sha256.slice(0, 12)}`];
  });
  if (changed.length === 0) return;
  if (isAccepted) return note(`Changed inputs were accepted: ${changed.join("; ")}.`);
  throw new UserError(
    `${changed.join("; ")}: the content is not what was trained with until now. Put it back, or continue with what is there: --resume … --accept-changed-inputs`,
  );
}

/** @throws UserError when a model is not the one that a checkpoint (the newest) was trained with */
export function compareModel(
  runDir: string,
  run: RunConfig,
  isAccepted: boolean,
  step = listCheckpoints(runDir).at(-1),
): void {
  if (step === undefined) return;
  const { inputs } = readJson(valuesFile(runDir, step), z.looseObject({ inputs: savedInputs }));
  compareInputs(inputs, modelInputs(run.model.path), isAccepted, () => {});
}
