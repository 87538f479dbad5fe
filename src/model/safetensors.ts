/**
 * The one reader and writer of safetensors files (format: huggingface/safetensors README,
 * "Format").
 *
 * A file is: u64 little-endian header length N, N bytes of JSON {name: {dtype, shape,
 * data_offsets}}, then the tensors' bytes, back to back. Everything is checked here, at the door;
 * what comes out is float32. Knows the weight layout of a decoder for `loadPacked`; knows nothing
 * about runtimes.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { UserError, messageOf } from "../errors.js";
import type { ModelConfig } from "./config.js";
import { narrowToBfloat16, narrowToFloat16, widenBfloat16, widenFloat16 } from "./half.js";
import { type LayoutEntry, layoutSize, weightLayout } from "./layout.js";

const bytesPerElement: Readonly<Record<string, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
};

/** A tensor still on disk. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Number of elements. */
  readonly size: number;
  readonly file: string;
  /** Absolute position of its first byte in `file`. */
  readonly position: number;
}

/**
 * A tensor to be written; a function is called when its turn comes, so that only one tensor need
 * exist at a time.
 */
export interface TensorToWrite {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Float32Array | (() => Float32Array);
}

// The format's own limit: a longer header is a damaged length field (safetensors/src/tensor.rs,
// MAX_HEADER_SIZE).
const maxHeaderBytes = 100_000_000;
const ioBytes = 8 << 20;

const headerSchema = z.record(z.string(), z.unknown());
const entrySchema = z.object({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
});
const shardIndexSchema = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

/**
 * Lists the tensors of a `.safetensors` file, or of a model folder (`model.safetensors`, or the
 * shards named by `model.safetensors.index.json`). Reads headers only.
 * @throws UserError naming the file when it is missing, truncated, or its header contradicts itself
 *   or its size
 */
export function readSafetensors(path: string): Map<string, StoredTensor> {
  if (!existsSync(path))
    throw new UserError(`${path}: expected a safetensors file or a model folder, found nothing. Check the path.`);
  if (!statSync(path).isDirectory()) return readHeader(path);
  const single = join(path, "model.safetensors");
  const index = join(path, "model.safetensors.index.json");
  if (existsSync(single)) return readHeader(single);
  if (existsSync(index)) return readShards(path, index);
  throw new UserError(
    `${path}: expected model.safetensors or model.safetensors.index.json, found neither. Point model.path at a folder with safetensors weights.`,
  );
}

/**
 * Reads one tensor as float32 (F32 as it is, F16 and BF16 widened exactly).
 * @param into receives the values; its length must be the tensor's size. Default: a new array.
 */
export function readTensor(tensor: StoredTensor, into: Float32Array = new Float32Array(tensor.size)): Float32Array {
  if (into.length !== tensor.size)
    throw new Error(`${tensor.name}: room for ${into.length} values, the tensor has ${tensor.size}`);
  const fd = openSync(tensor.file, "r");
  try {
    if (tensor.dtype === "F32") {
      readFully(fd, new Uint8Array(into.buffer, into.byteOffset, into.byteLength), tensor.position, tensor.file);
    } else if (tensor.dtype === "F16" || tensor.dtype === "BF16") {
      const widen = tensor.dtype === "BF16" ? widenBfloat16 : widenFloat16;
      const scratch = new Uint16Array(Math.min(tensor.size, ioBytes / 2));
      for (let done = 0; done < tensor.size; done += scratch.length) {
        const part = scratch.subarray(0, Math.min(scratch.length, tensor.size - done));
        readFully(fd, new Uint8Array(part.buffer, 0, part.byteLength), tensor.position + done * 2, tensor.file);
        widen(part, into.subarray(done, done + part.length));
      }
    } else {
      throw new UserError(
        `${tensor.file}: ${tensor.name} has dtype ${tensor.dtype}, expected F32, F16 or BF16. Convert the checkpoint to one of these (quantised weights cannot be trained).`,
      );
    }
  } finally {
    closeSync(fd);
  }
  return into;
}

/**
 * Reads a model folder's weights straight into a packed buffer in the order of
 * `weightLayout(config)`: there is never a second copy.
 * @param into receives the values; its length must be the layout's size. Default: a new array.
 * @throws UserError listing every missing, surplus or mis-shaped tensor
 */
export function loadPacked(
  folder: string,
  config: ModelConfig,
  into: Float32Array = new Float32Array(layoutSize(weightLayout(config))),
): Float32Array {
  for (const { entry, stored } of modelTensors(folder, config))
    readTensor(stored, into.subarray(entry.offset, entry.offset + entry.size));
  return into;
}

/**
 * A model folder's tensors, still on disk, in the order of `weightLayout(config)`.
 * A checkpoint with tied embeddings may carry or lack `lm_head.weight`; it is not among them.
 * @throws UserError listing every missing, surplus or mis-shaped tensor
 */
export function modelTensors(folder: string, config: ModelConfig): { entry: LayoutEntry; stored: StoredTensor }[] {
  const layout = weightLayout(config);
  const stored = readSafetensors(folder);
  const problems = layoutProblems(layout, stored, config.tieWordEmbeddings);
  if (problems.length > 0) {
    const shown = problems.slice(0, 10).join("\n  ");
    const more = problems.length > 10 ? `\n  … and ${problems.length - 10} more` : "";
    throw new UserError(
      `${folder}: the weights do not fit config.json:\n  ${shown}${more}\nUse the config.json and safetensors files of one and the same model.`,
    );
  }
  return layout.map((entry) => ({ entry, stored: stored.get(entry.name)! }));
}

function layoutProblems(
  layout: readonly LayoutEntry[],
  stored: ReadonlyMap<string, StoredTensor>,
  tied: boolean,
): string[] {
  const problems: string[] = [];
  const known = new Set(layout.map((entry) => entry.name));
  for (const { name, shape } of layout) {
    const found = stored.get(name);
    if (found === undefined) problems.push(`${name}: expected [${shape.join(", ")}], found no such tensor`);
    else if (found.shape.join() !== shape.join())
      problems.push(`${name}: expected [${shape.join(", ")}], found [${found.shape.join(", ")}]`);
  }
  for (const { name, shape } of stored.values()) {
    // Old llama checkpoints store the RoPE frequencies, which are a function of config.json.
    if (known.has(name) || (tied && name === "lm_head.weight") || name.endsWith(".rotary_emb.inv_freq")) continue;
    problems.push(`${name}: expected no such tensor, found [${shape.join(", ")}]`);
  }
  return problems;
}

/** How values are stored. Narrower than float32: rounded to the nearest, ties to even. */
export type StoredDtype = "F32" | "F16" | "BF16";

export const storedBytes = (dtype: StoredDtype): number => bytesPerElement[dtype]!;

interface WriteOptions {
  /** Default F32. */
  readonly dtype?: StoredDtype;
  /** Strings for `__metadata__`; default {format: "pt"}, which transformers asks for. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A file that is being written: whole under its name once finished, absent before. */
export interface UnfinishedSafetensors {
  /** Values of the next tensor, in the order announced. */
  append(data: Float32Array): void;
  finish(): void;
  /** Removes what was written. */
  discard(): void;
}

/**
 * Writes a safetensors file, one tensor at a time.
 * @throws UserError for a value that F16 does not have
 */
export function writeSafetensors(file: string, tensors: readonly TensorToWrite[], options: WriteOptions = {}): void {
  const out = createSafetensors(file, tensors, options);
  try {
    for (const { data } of tensors) out.append(typeof data === "function" ? data() : data);
    out.finish();
  } catch (error) {
    out.discard();
    throw error;
  }
}

/**
 * Begins a file whose values come later. It has a temporary name until `finish` fsyncs and renames
 * it.
 */
export function createSafetensors(
  file: string,
  tensors: readonly Pick<TensorToWrite, "name" | "shape">[],
  options: WriteOptions = {},
): UnfinishedSafetensors {
  const dtype = options.dtype ?? "F32";
  const header: Record<string, unknown> = { __metadata__: options.metadata ?? { format: "pt" } };
  const sizes: number[] = [];
  let end = 0;
  for (const { name, shape } of tensors) {
    if (Object.hasOwn(header, name)) throw new Error(`${file}: two tensors are called ${name}`);
    const size = shape.reduce((a, b) => a * b, 1);
    sizes.push(size);
    const begin = end;
    end += size * storedBytes(dtype);
    header[name] = { dtype, shape, data_offsets: [begin, end] };
  }
  const json = JSON.stringify(header);
  // Spaces after the JSON are allowed; they align the data to 8 bytes.
  const headerBytes = Buffer.from(json + " ".repeat((8 - (Buffer.byteLength(json) % 8)) % 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(headerBytes.length));

  const temporary = `${file}.tmp-${process.pid}`;
  const fd = openSync(temporary, "w");
  let open = true;
  const close = (): void => {
    if (open) closeSync(fd);
    open = false;
  };
  let next = 0;
  const out: UnfinishedSafetensors = {
    append(data) {
      const { name, shape } = tensors[next]!;
      if (data.length !== sizes[next])
        throw new Error(`${name}: ${data.length} values for shape [${shape.join(", ")}]`);
      next++;
      if (dtype === "F32") return writeFully(fd, bytesOf(data));
      for (let at = 0; at < data.length; at += ioBytes / 4) {
        const part = data.subarray(at, at + ioBytes / 4);
        writeFully(fd, bytesOf(dtype === "BF16" ? narrowToBfloat16(part) : narrowToFloat16(part, name)));
      }
    },
    finish() {
      if (next !== tensors.length) throw new Error(`${file}: ${next} of ${tensors.length} tensors were written`);
      fsyncSync(fd);
      close();
      renameSync(temporary, file);
      const folder = openSync(dirname(file), "r");
      fsyncSync(folder);
      closeSync(folder);
    },
    discard() {
      close();
      rmSync(temporary, { force: true });
    },
  };
  try {
    writeFully(fd, length);
    writeFully(fd, headerBytes);
  } catch (error) {
    out.discard();
    throw error;
  }
  return out;
}

// ----------------------------------------------------------------------------------------------------
// headers

function readHeader(file: string): Map<string, StoredTensor> {
  const damaged = (what: string): UserError =>
    new UserError(`${file}: not a whole safetensors file: ${what}. Download or copy the file again.`);
  const fd = openSync(file, "r");
  try {
    const fileBytes = fstatSync(fd).size;
    if (fileBytes < 8) throw damaged(`expected at least 8 bytes, found ${fileBytes}`);
    const length = Buffer.alloc(8);
    readFully(fd, length, 0, file);
    const headerBytes = Number(length.readBigUInt64LE());
    if (headerBytes > maxHeaderBytes)
      throw damaged(`the header length reads ${headerBytes}, expected at most ${maxHeaderBytes}`);
    if (8 + headerBytes > fileBytes)
      throw damaged(`expected a header of ${headerBytes} bytes, found a file of ${fileBytes}`);
    const text = Buffer.alloc(headerBytes);
    readFully(fd, text, 8, file);
    let header: Record<string, unknown>;
    try {
      header = headerSchema.parse(JSON.parse(text.toString("utf8")));
    } catch (error) {
      throw damaged(`expected a JSON header (${messageOf(error).split("\n")[0]})`);
    }
    return placeTensors(file, header, 8 + headerBytes, fileBytes, damaged);
  } finally {
    closeSync(fd);
  }
}

/** Checks that the tensors cover the rest of the file exactly, without holes or overlaps. */
function placeTensors(
  file: string,
  header: Record<string, unknown>,
  dataStart: number,
  fileBytes: number,
  damaged: (what: string) => UserError,
): Map<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  const spans: { name: string; begin: number; end: number }[] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const parsed = entrySchema.safeParse(value);
    if (!parsed.success)
      throw damaged(`the header's entry ${name} is malformed (${z.prettifyError(parsed.error).replaceAll("\n", " ")})`);
    const {
      dtype,
      shape,
      data_offsets: [begin, end],
    } = parsed.data;
    const width = bytesPerElement[dtype];
    if (width === undefined)
      throw new UserError(
        `${file}: ${name} has dtype ${dtype}, expected F32, F16 or BF16. Convert the checkpoint to one of these.`,
      );
    const size = shape.reduce((a, b) => a * b, 1);
    if (end - begin !== size * width)
      throw damaged(
        `${name} (${dtype} [${shape.join(", ")}]) should take ${size * width} bytes, its offsets span ${end - begin}`,
      );
    spans.push({ name, begin, end });
    tensors.set(name, { name, dtype, shape, size, file, position: dataStart + begin });
  }
  let covered = 0;
  for (const { name, begin, end } of spans.sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== covered) throw damaged(`${name} should begin at data byte ${covered}, its offset is ${begin}`);
    covered = end;
  }
  if (dataStart + covered !== fileBytes)
    throw damaged(`its tensors need ${dataStart + covered} bytes, the file has ${fileBytes}`);
  return tensors;
}

function readShards(folder: string, indexFile: string): Map<string, StoredTensor> {
  let index: z.infer<typeof shardIndexSchema>;
  try {
    index = shardIndexSchema.parse(JSON.parse(readFileSync(indexFile, "utf8")));
  } catch (error) {
    throw new UserError(
      `${indexFile}: expected JSON with a weight_map (${messageOf(error).split("\n")[0]}). Download the file again.`,
    );
  }
  const all = new Map<string, StoredTensor>();
  for (const shard of new Set(Object.values(index.weight_map))) {
    const file = join(folder, shard);
    if (!existsSync(file))
      throw new UserError(
        `${indexFile} names the shard ${shard}, which is not in the folder. Download the missing file.`,
      );
    for (const [name, tensor] of readHeader(file)) {
      if (index.weight_map[name] === shard) all.set(name, tensor);
    }
  }
  for (const [name, shard] of Object.entries(index.weight_map)) {
    if (!all.has(name))
      throw new UserError(
        `${join(folder, shard)}: expected ${name} (by ${indexFile}), found no such tensor. Download both files again.`,
      );
  }
  return all;
}

// ----------------------------------------------------------------------------------------------------
// bytes

function readFully(fd: number, into: Uint8Array, position: number, file: string): void {
  for (let done = 0; done < into.length;) {
    const read = readSync(fd, into, done, Math.min(into.length - done, 1 << 30), position + done);
    if (read === 0)
      throw new UserError(
        `${file}: ended at byte ${position + done} while it was being read. Is something else writing it?`,
      );
    done += read;
  }
}

function writeFully(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done, Math.min(bytes.length - done, 1 << 30));
}

function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
