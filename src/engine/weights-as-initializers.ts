/** Weights as initializers stay on CUDA's device. Their file is removed once sessions are made. */
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { UserError } from "../errors.js";
import { writeFully } from "../files.js";
import type { ModelConfig } from "../model/config.js";
import { hashLine, hashOfLines, publishedHash, publishedLayout } from "../model/identity.js";
import { layoutSize, weightLayout, type LayoutEntry } from "../model/layout.js";
import { weightReader } from "../model/model-weights.js";
import type { AdaptersOnBase, EngineOptions } from "./engine-types.js";
import { adapterInputs, fillAdapter } from "./graph/adapters.js";
import { quantize, scaleName } from "./graph/int8.js";
import { isFused, type Numeric, weightDtype } from "./graph/numeric.js";
import { buildGroupedSegmentGraph } from "./graph/grouped-segment.js";
import { buildPrefillGraph } from "./graph/qwen2.js";
import { buildSegmentGraph } from "./graph/segment.js";
import { WEIGHTS_FILE, byteLength, storedWeights, type StoredWeight } from "./graph/weight-file.js";
import { checkCuda, halfConverter, type HalfConverter } from "./half-converter.js";
import { releaseSessions, sessionOptions, type EngineWeights, type Sessions } from "./sessions.js";

/** Elements that are converted and written at a time. */
const CHUNK = 1 << 24;

/**
 * Makes the sessions from a file of weights at every new policy; with LoRA once.
 * @param lora `load` takes adapters, beside a base that is read now; null: it takes whole policies
 */
export async function weightsAsInitializers(
  shape: ModelConfig,
  options: EngineOptions,
  lora: AdaptersOnBase | null,
): Promise<EngineWeights> {
  const { dtype = "float32", fused = isFused(shape, dtype) } = options;
  const adapters = lora === null ? [] : adapterInputs(shape, lora.spec, fused);
  const int8 = dtype === "int8";
  const numeric: Numeric = { dtype: int8 ? "float32" : dtype, int8, fused, weights: "initializers", adapters };
  const narrow = await halfConverter(options.threads);
  if (options.device === "cuda") await checkCuda();
  const layout = publishedLayout(shape, lora?.spec ?? null);
  const feeds: Record<string, Tensor> = {};
  const making: Making = { shape, options, numeric, narrow };
  const toTensor = async (values: Float32Array, dims: readonly number[]): Promise<Tensor> =>
    numeric.dtype === "float32"
      ? new Tensor("float32", values, dims)
      : new Tensor("float16", await narrow.convert(values), dims);
  const base = lora === null ? null : await makeSessions(making, weightReader(lora.baseFolder, shape));
  let current = base?.sessions;
  return {
    dtype: numeric.dtype,
    fused,
    feeds,
    get sessions() {
      if (current === undefined) throw new Error("no sessions before the first load");
      return current;
    },
    size: layoutSize(layout),
    async load(packed) {
      if (lora === null) {
        // The old sessions first: two policies need not fit on the device.
        if (current !== undefined) await releaseSessions(current);
        current = undefined;
        const read = ({ offset, size }: LayoutEntry): Float32Array => packed.slice(offset, offset + size);
        const made = await makeSessions(making, read);
        current = made.sessions;
        return made.sha256;
      }
      const adapterValues = packed.slice(); // what arrives lies in shared memory, which ONNX Runtime refuses
      for (const adapter of adapters) {
        const filled = fillAdapter(adapter, adapterValues, lora.spec.lora_alpha / lora.spec.r);
        feeds[adapter.a.name] = await toTensor(filled.a, adapter.a.shape);
        feeds[adapter.b.name] = await toTensor(filled.b, adapter.b.shape);
      }
      return publishedHash(adapterValues, layout, base!.sha256);
    },
    async dispose() {
      if (current !== undefined) await releaseSessions(current);
      await narrow.release();
    },
  };
}

/** What both sessions are made by, beside the weights. */
interface Making {
  readonly shape: ModelConfig;
  readonly options: EngineOptions;
  readonly numeric: Numeric;
  readonly narrow: HalfConverter;
}

/** Writes the weights that `read` gives, makes both sessions of them, and removes the file. */
async function makeSessions(making: Making, read: (entry: LayoutEntry) => Float32Array) {
  const { shape, options, numeric } = making;
  const folder = mkdtempSync(join(roomyFolder(shape, numeric), "finellama-"));
  try {
    const sha256 = await writeWeights(join(folder, WEIGHTS_FILE), making, read);
    const create = async (name: string, model: Uint8Array): Promise<InferenceSession> => {
      const path = join(folder, name);
      writeFileSync(path, model);
      return InferenceSession.create(path, sessionOptions(options));
    };
    const { maxRows, segmentLength } = options;
    const decodeGraph =
      numeric.fused === true
        ? buildGroupedSegmentGraph(shape, segmentLength, numeric)
        : buildSegmentGraph(shape, maxRows, segmentLength, numeric);
    const prefill = await create("prefill.onnx", buildPrefillGraph(shape, numeric));
    const segment = await create("segment.onnx", decodeGraph);
    const sessions: Sessions = { prefill, fewRows: segment, manyRows: segment };
    return { sessions, sha256 };
  } finally {
    rmSync(folder, { recursive: true, force: true }); // what a session maps or has copied stays
  }
}

/** Shared memory where the weights fit, else the folder for temporary files. */
function roomyFolder(shape: ModelConfig, numeric: Numeric): string {
  const last = storedWeights(shape, weightDtype(numeric)).at(-1)!;
  const needed = last.position + byteLength(last);
  for (const folder of ["/dev/shm", tmpdir()]) {
    if (!existsSync(folder)) continue;
    const { bavail, bsize } = statfsSync(folder);
    if (bavail * bsize > needed) return folder;
  }
  throw new UserError(
    `the actor's weights need ${(needed / 2 ** 30).toFixed(1)} GiB in /dev/shm or ${tmpdir()}, found less in both. ` +
      `Free some, or name another folder in TMPDIR.`,
  );
}

/** Takes parameters of int8 weights; a weight is rounded and written when it is whole. */
function int8Writer(fd: number, stored: readonly StoredWeight[]) {
  const whole = new Map<string, { readonly values: Float32Array; missing: number }>();
  return (weight: StoredWeight, start: number, values: Float32Array): void => {
    const size = byteLength(weight);
    const gathered = whole.get(weight.name) ?? { values: new Float32Array(size), missing: size };
    whole.set(weight.name, gathered);
    gathered.values.set(values, start);
    gathered.missing -= values.length;
    if (gathered.missing > 0) return;
    whole.delete(weight.name);
    const rounded = quantize(gathered.values, weight.shape[0]!);
    writeFully(fd, rounded.values, weight.position);
    writeFully(fd, rounded.scales, stored.find(({ name }) => name === scaleName(weight.name))!.position);
  };
}

/** Writes every initializer; returns the hash of the weights in their published form. */
async function writeWeights(
  path: string,
  { shape, numeric, narrow }: Making,
  read: (entry: LayoutEntry) => Float32Array,
): Promise<string> {
  const stored = storedWeights(shape, weightDtype(numeric));
  const lines: string[] = [];
  const fd = openSync(path, "wx", 0o600);
  const takeForInt8 = int8Writer(fd, stored);
  try {
    for (const entry of weightLayout(shape)) {
      const values = read(entry);
      lines.push(hashLine(entry, values));
      // A parameter may be a part of one initializer, and (a tied embedding) be in two.
      for (const weight of stored) {
        const start = entry.offset - weight.offset;
        if (start < 0 || start >= weight.shape.reduce((a, b) => a * b, 1)) continue;
        if (weight.name.endsWith(".scale")) continue; // written with its weight
        if (weight.dtype === "int8") {
          takeForInt8(weight, start, values);
          continue;
        }
        const width = weight.dtype === "float16" ? 2 : 4;
        for (let at = 0; at < values.length; at += CHUNK) {
          const part = values.slice(at, at + CHUNK);
          const bytes = weight.dtype === "float16" ? await narrow.convert(part) : part;
          writeFully(fd, bytes, weight.position + (start + at) * width);
        }
      }
    }
  } finally {
    closeSync(fd);
  }
  return hashOfLines(lines);
}
