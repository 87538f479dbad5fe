/** Writes a model for other programs, one tensor at a time; `merge`: W + (lora_alpha / r) · B A. */
import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, statfsSync } from "node:fs";
import { constants, availableParallelism } from "node:os";
import { dirname, join, resolve, sep } from "node:path";
import { z } from "zod";
import { createMatrixMerge, matrixOf, type MatrixMerge } from "./adapter.js";
import { UserError } from "../errors.js";
import { readJson, writeJson } from "../files.js";
import type { DownloadProgress } from "../model/download.js";
import { copyTokenizerFiles, writeConfig } from "../model/folder.js";
import { isHubId, missingFiles, originOf } from "../model/hub.js";
import { adapterPairs, adapterTensors, loraLayout, type LoraSpec } from "../model/lora.js";
import { readModel, type ModelFiles } from "../model/read-model.js";
import { modelTensors } from "../model/model-weights.js";
import { nonFinite, readTensor } from "../model/safetensors/read.js";
import { storedBytes, writeSafetensors, type StoredDtype } from "../model/safetensors/write.js";
import { writeShards } from "../model/safetensors/shards.js";
import { sha256OfFile } from "../model/identity.js";

export interface ExportOptions {
  readonly out: string;
  readonly merge: boolean;
  /** Undefined = bf16, of an adapter that is not merged fp32. */
  readonly dtype?: "bf16" | "fp32" | "fp16";
  /** Bytes. */
  readonly maxShardSize: number;
  readonly force: boolean;
  /** Threads of the merge; 0 = all cores. */
  readonly threads: number;
}

/** As safetensors and as torch call them. */
const dtypes: Readonly<Record<NonNullable<ExportOptions["dtype"]>, { stored: StoredDtype; torch: string }>> = {
  bf16: { stored: "BF16", torch: "bfloat16" },
  fp32: { stored: "F32", torch: "float32" },
  fp16: { stored: "F16", torch: "float16" },
};

const note = (line: string): boolean => process.stderr.write(`note: ${line}\n`);

/** Told how many bytes are to be written and how many have been. */
type ExportProgress = Pick<DownloadProgress, "total" | "add">;

/** @returns files and hashes @throws UserError when the model, target or a value does not fit */
export async function exportModel(spec: string, options: ExportOptions, progress: ExportProgress) {
  const out = resolve(options.out);
  const model = readModel(spec);
  if (options.merge && model.lora === null)
    note(`--merge has no effect: ${model.folder} holds a whole model, no adapter.`);
  checkTarget(out, options.force, [model.folder, model.baseFolder]);
  if (existsSync(join(model.folder, "value_head.safetensors")))
    note("value_head.safetensors, the critic of PPO, is left out: it serves training alone.");
  const temporary = `${out}.tmp-${process.pid}`;
  await withTemporary(temporary, async () => {
    copyTokenizerFiles(temporary, model.tokenizerFolder);
    const generation = join(model.baseFolder, "generation_config.json");
    const copied = join(temporary, "generation_config.json");
    if (!existsSync(copied) && existsSync(generation)) copyFileSync(generation, copied);
    if (model.lora !== null && !options.merge) writeAdapter(temporary, model, model.lora, options);
    else await writeModel(temporary, model, options, progress);
    putInPlace(temporary, out);
  });
  const names = readdirSync(out).toSorted();
  return names.map((name) => ({ name, sha256: sha256OfFile(join(out, name)) }));
}

async function writeModel(folder: string, model: ModelFiles, options: ExportOptions, progress: ExportProgress) {
  const { stored, torch } = dtypes[options.dtype ?? "bf16"];
  writeConfig(folder, model.baseFolder, torch);
  const threads = options.threads || availableParallelism();
  const merge = model.lora === null ? null : await createMatrixMerge(model.lora, threads);
  try {
    const tensors = tensorsOf(model, merge);
    const bytes = tensors.reduce((sum, { size }) => sum + size, 0) * storedBytes(stored);
    checkRoom(folder, bytes);
    progress.total(bytes, 0);
    await writeShards(folder, tensors, stored, options.maxShardSize, (written) => progress.add(written));
  } finally {
    await merge?.release();
  }
}

/** The model's tensors, those that an adapter changes merged as they are read. */
function tensorsOf(model: ModelFiles, merge: MatrixMerge | null) {
  const { shape, lora, baseFolder } = model;
  const layout = merge === null || lora === null ? [] : loraLayout(shape, lora);
  const adapters = layout.length === 0 ? new Float32Array() : model.published();
  const pairs = new Map(adapterPairs(layout).map((pair) => [pair.target, pair]));
  return modelTensors(baseFolder, shape).map(({ entry: { name, shape, size }, stored }) => ({
    name,
    shape,
    size,
    data: async () => {
      const pair = pairs.get(name);
      const base = { values: readTensor(stored), shape };
      const { values } = pair === undefined ? base : { values: new Float32Array(size) };
      if (pair !== undefined)
        await merge!.run(base, matrixOf(adapters, pair.b), matrixOf(adapters, pair.a), { values, shape });
      const bad = nonFinite(values);
      if (bad !== undefined)
        throw new UserError(`${name}: expected numbers, found ${bad}. Export a checkpoint from before that happened.`);
      return values;
    },
  }));
}

/** PEFT's folder: the source's adapter_config.json, pointing to a base that other machines find. */
function writeAdapter(folder: string, model: ModelFiles, lora: LoraSpec, options: ExportOptions): void {
  const { stored } = dtypes[options.dtype ?? "fp32"];
  const packed = model.published();
  const tensors = adapterTensors(loraLayout(model.shape, lora), packed);
  writeSafetensors(join(folder, "adapter_model.safetensors"), tensors, stored);
  const json = readJson(
    join(model.folder, "adapter_config.json"),
    z.looseObject({ base_model_name_or_path: z.string() }),
  );
  const base = json.base_model_name_or_path;
  const origin = originOf(base);
  const named = origin === undefined ? {} : { base_model_name_or_path: origin.repo, revision: origin.commit };
  if (origin === undefined && (existsSync(base) || !isHubId(base)))
    note(`the adapter names its base by a path of this machine, ${base}. Elsewhere, correct base_model_name_or_path.`);
  writeJson(join(folder, "adapter_config.json"), { ...json, ...named });
}

/** @throws UserError unless `out` is free, or a replaceable model that is no source of this one */
function checkTarget(out: string, force: boolean, sources: readonly string[]): void {
  if (!existsSync(out) || readdirSync(out).length === 0) return;
  if (!force)
    throw new UserError(
      `--out ${out}: expected a new or an empty folder, found files in it. Choose another, or add --force to replace it.`,
    );
  const source = sources.map((folder) => resolve(folder)).find((path) => `${path}${sep}`.startsWith(`${out}${sep}`));
  if (source !== undefined)
    throw new UserError(
      `--out ${out}: expected another folder than the model's own, found ${source} in it. Choose another.`,
    );
  if (missingFiles(out).length > 0)
    throw new UserError(
      `--out ${out}: --force replaces a model's folder, found one of another kind. Choose another, or remove it yourself.`,
    );
}

function checkRoom(folder: string, bytes: number): void {
  const { bavail, bsize } = statfsSync(folder);
  if (bytes > bavail * bsize)
    throw new UserError(
      `${dirname(folder)}: expected room for ${(bytes / 1e9).toFixed(2)} GB, found ${((bavail * bsize) / 1e9).toFixed(2)} GB. Free some, or choose another --out.`,
    );
}

/** Runs `work` with a new folder, which is removed unless it was put in place, also on Ctrl-C. */
async function withTemporary(folder: string, work: () => Promise<void>): Promise<void> {
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const stop = (signal: NodeJS.Signals): void => {
    remove();
    process.exit(128 + constants.signals[signal]);
  };
  process.once("SIGINT", stop).once("SIGTERM", stop);
  try {
    remove();
    mkdirSync(folder, { recursive: true });
    await work();
  } finally {
    process.off("SIGINT", stop).off("SIGTERM", stop);
    remove();
  }
}

/** What lay there goes only once the new folder has its place. */
function putInPlace(folder: string, out: string): void {
  const old = `${folder}.old`;
  if (existsSync(out)) renameSync(out, old);
  renameSync(folder, out);
  rmSync(old, { recursive: true, force: true });
}
