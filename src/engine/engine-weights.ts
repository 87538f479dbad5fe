/**
 * The sessions of an engine and the weights they compute with. Two kinds, after `Numeric.weights`:
 * inputs (CPU: an arena of float32, refreshed by a copy) and initializers (CUDA: they stay on the
 * device).
 *
 * Initializers: the sessions are made from a file of weights, in shared memory where there is room,
 * which is removed once they are. With LoRA that happens once, and adapters are inputs beside the
 * base; without, at every new policy.
 */
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, statfsSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { UserError, messageOf } from "../errors.js";
import type { ModelConfig } from "../model/config.js";
import { layoutSize, weightLayout, type LayoutEntry } from "../model/layout.js";
import type { LoraSpec } from "../model/lora.js";
import { publishedHash, publishedLayout } from "../model/identity.js";
import { loadPacked, modelTensors } from "../model/model-weights.js";
import { readTensor } from "../model/safetensors/read.js";
import { hashOfLines, hashLine, hashPacked } from "../model/identity.js";
import { AdapterMerger } from "./adapter.js";
import type { EngineOptions } from "./engine-types.js";
import {
  CPU_FLOAT32,
  WEIGHTS_FILE,
  adapterInputs,
  byteLength,
  fillAdapter,
  storedWeights,
  type Numeric,
} from "./graph/numeric.js";
import { DATA_TYPE, Graph } from "./graph/onnx.js";
import { buildPrefillGraph } from "./graph/qwen2.js";
import { buildSegmentGraph } from "./graph/segment.js";
import { weightViews } from "./graph/weights.js";
import { halfBits } from "./kv-cache.js";

interface Sessions {
  readonly prefill: InferenceSession;
  /** For segments of fewer than `MANY_ROWS`, and for others; may be the same. */
  readonly fewRows: InferenceSession;
  readonly manyRows: InferenceSession;
}

/**
 * From here on a segment is faster with weights as first operands (SmolLM2-135M and the starter
 * model, one and two cores).
 */
const MANY_ROWS = 8;

export interface EngineWeights {
  /** Of keys and values. */
  readonly dtype: Numeric["dtype"];
  /** Inputs of every run. */
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** There are none before the first `load`, where each policy makes its own. */
  readonly sessions: Sessions;
  /** Elements of what `load` takes. */
  readonly size: number;
  /** Adopts published weights, and returns the hash of what it now holds. */
  load(packed: Float32Array): Promise<string>;
  dispose(): Promise<void>;
}

/** LoRA, and the folder its base is read from. */
export interface AdaptersOnBase {
  readonly spec: LoraSpec;
  readonly baseFolder: string;
}

/** Elements that are converted and written at a time. */
const CHUNK = 1 << 24;

function sessionOptions({ threads, device }: EngineOptions): InferenceSession.SessionOptions {
  return {
    executionProviders: [device ?? "cpu"],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: "all",
    // Shapes change with nearly every run; remembered allocation patterns would only pile up.
    enableMemPattern: false,
    // Threads wait for the next operator awake, but for none when a run is over: each session has
    // threads of its own, and those of the one that has just run would take cores from the next
    // one.
    extra: { session: { intra_op: { allow_spinning: "1" }, force_spinning_stop: "1" } },
  };
}

/**
 * @param lora `load` takes adapters, and merges them into its copy of the base; null: it takes
 *   whole policies
 */
export async function weightsAsInputs(
  config: ModelConfig,
  options: EngineOptions,
  lora: AdaptersOnBase | null,
): Promise<EngineWeights> {
  const merger =
    lora === null
      ? null
      : await AdapterMerger.create(config, lora.spec, loadPacked(lora.baseFolder, config), options.threads);
  const { maxRows, segmentLength } = options;
  const create = (graph: Uint8Array) => InferenceSession.create(graph, sessionOptions(options));
  const sessions: Sessions = {
    prefill: await create(buildPrefillGraph(config)),
    fewRows: await create(buildSegmentGraph(config, maxRows, segmentLength)),
    manyRows: await create(buildSegmentGraph(config, maxRows, segmentLength, { ...CPU_FLOAT32, weightsFirst: true })),
  };
  const layout = weightLayout(config);
  const arena = new Float32Array(layoutSize(layout));
  const feeds: Record<string, Tensor> = {};
  for (const { name, shape, offset } of weightViews(config)) {
    const size = shape.reduce((a, b) => a * b, 1);
    feeds[name] = new Tensor("float32", arena.subarray(offset, offset + size), shape);
  }
  return {
    dtype: CPU_FLOAT32.dtype,
    feeds,
    sessions,
    size: layoutSize(merger?.layout ?? layout),
    async load(packed) {
      if (merger !== null) return merger.mergeInto(arena, packed);
      arena.set(packed);
      return hashPacked(arena, layout);
    },
    async dispose() {
      await release(sessions);
      await merger?.dispose();
    },
  };
}

/**
 * @param lora `load` takes adapters, beside a base that is read now; null: it takes whole policies
 */
export async function weightsAsInitializers(
  config: ModelConfig,
  options: EngineOptions,
  lora: AdaptersOnBase | null,
): Promise<EngineWeights> {
  const adapters = lora === null ? [] : adapterInputs(config, lora.spec);
  const numeric: Numeric = { dtype: options.dtype ?? "float32", weights: "initializers", adapters };
  const narrow = await halfConverter(options.threads);
  if (options.device === "cuda") await checkCuda();
  const layout = publishedLayout(config, lora?.spec ?? null);
  const feeds: Record<string, Tensor> = {};
  let current: Sessions | undefined;
  const toTensor = async (values: Float32Array, shape: readonly number[]): Promise<Tensor> =>
    numeric.dtype === "float32"
      ? new Tensor("float32", values, shape)
      : new Tensor("float16", await narrow.convert(values), shape);
  const base =
    lora === null ? null : await makeSessions(config, options, numeric, narrow, folderReader(lora.baseFolder, config));
  current = base?.sessions;
  return {
    dtype: numeric.dtype,
    feeds,
    get sessions() {
      if (current === undefined) throw new Error("no sessions before the first load");
      return current;
    },
    size: layoutSize(layout),
    async load(packed) {
      if (lora === null) {
        // The old sessions first: two policies need not fit on the device.
        if (current !== undefined) await release(current);
        current = undefined;
        const read = ({ offset, size }: LayoutEntry): Float32Array => packed.slice(offset, offset + size);
        const made = await makeSessions(config, options, numeric, narrow, read);
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
      if (current !== undefined) await release(current);
      await narrow.release();
    },
  };
}

/** Reads the parameters of a model folder one at a time: the whole need not be in memory. */
function folderReader(folder: string, config: ModelConfig): (entry: LayoutEntry) => Float32Array {
  const stored = new Map(modelTensors(folder, config).map((tensor) => [tensor.entry.name, tensor.stored]));
  return ({ name }) => readTensor(stored.get(name)!);
}

async function release({ prefill, fewRows, manyRows }: Sessions): Promise<void> {
  for (const session of new Set([prefill, fewRows, manyRows])) await session.release();
}

/** The session for a segment of `rows`. */
export function segmentSession({ fewRows, manyRows }: Sessions, rows: number): InferenceSession {
  return rows < MANY_ROWS ? fewRows : manyRows;
}

/** Writes the weights that `read` gives, makes both sessions of them, and removes the file. */
async function makeSessions(
  config: ModelConfig,
  options: EngineOptions,
  numeric: Numeric,
  narrow: HalfConverter,
  read: (entry: LayoutEntry) => Float32Array,
): Promise<{ sessions: Sessions; sha256: string }> {
  const folder = mkdtempSync(join(roomyFolder(config, numeric), "finellama-"));
  try {
    const sha256 = await writeWeights(join(folder, WEIGHTS_FILE), config, numeric, narrow, read);
    const create = async (name: string, model: Uint8Array): Promise<InferenceSession> => {
      const path = join(folder, name);
      writeFileSync(path, model);
      return InferenceSession.create(path, sessionOptions(options));
    };
    const { maxRows, segmentLength } = options;
    const prefill = await create("prefill.onnx", buildPrefillGraph(config, numeric));
    const segment = await create("segment.onnx", buildSegmentGraph(config, maxRows, segmentLength, numeric));
    return { sessions: { prefill, fewRows: segment, manyRows: segment }, sha256 };
  } finally {
    rmSync(folder, { recursive: true, force: true }); // what a session maps or has copied stays
  }
}

/** Shared memory where the weights fit, else the folder for temporary files. */
function roomyFolder(config: ModelConfig, { dtype }: Numeric): string {
  const last = storedWeights(config, dtype).at(-1)!;
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

/** Writes every initializer; returns the hash of the weights in their published form. */
async function writeWeights(
  path: string,
  config: ModelConfig,
  { dtype }: Numeric,
  narrow: HalfConverter,
  read: (entry: LayoutEntry) => Float32Array,
): Promise<string> {
  const stored = storedWeights(config, dtype);
  const lines: string[] = [];
  const fd = openSync(path, "wx", 0o600);
  try {
    for (const entry of weightLayout(config)) {
      const values = read(entry);
      lines.push(hashLine(entry, values));
      // A parameter may be a part of one initializer, and (a tied embedding) be in two.
      for (const weight of stored) {
        const start = entry.offset - weight.offset;
        if (start < 0 || start >= weight.shape.reduce((a, b) => a * b, 1)) continue;
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

function writeFully(fd: number, values: Float32Array | Uint16Array, position: number): void {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done, bytes.length - done, position + done);
}

interface HalfConverter {
  /** Rounded to nearest even; beyond ±65,504 infinite. */
  convert(values: Float32Array): Promise<Uint16Array>;
  release(): Promise<void>;
}

/** x [n] as float16: the smallest graph that a device can be tried with. */
function castGraph(): Uint8Array {
  const g = Graph.create();
  const x = g.input("x", "float32", ["n"]);
  g.nodeTo(["half"], "Cast", [x], { to: { int: DATA_TYPE.float16 } });
  g.output("half", "float16", ["n"]);
  return g.encodeModel();
}

/** @throws UserError when ONNX Runtime makes no session on a GPU */
async function checkCuda(): Promise<void> {
  try {
    const session = await InferenceSession.create(castGraph(), { executionProviders: ["cuda"] });
    await session.release();
  } catch (error) {
    throw new UserError(
      `the actors' device is cuda, but ONNX Runtime makes no session there: ${messageOf(error)}. Its CUDA provider needs ` +
        `libonnxruntime_providers_cuda.so and libonnxruntime_providers_shared.so beside onnxruntime-node's binding, ` +
        `the CUDA and cuDNN 9 it was built for, and a GPU (doctor --cuda lists them). Install what is missing, or compute on the CPU (actors.device=cpu, --device cpu).`,
    );
  }
}

/** float32 → float16, by ONNX Runtime's own Cast. */
async function halfConverter(threads: number): Promise<HalfConverter> {
  const session = await InferenceSession.create(castGraph(), {
    intraOpNumThreads: threads,
    enableMemPattern: false,
  });
  return {
    async convert(values) {
      const outputs = await session.run({ x: new Tensor("float32", values, [values.length]) });
      return halfBits(outputs["half"]!);
    },
    release: () => session.release(),
  };
}
