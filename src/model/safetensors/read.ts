/**
 * Reads safetensors files: u64 little-endian header length N, N bytes of JSON {name: {dtype, shape,
 * data_offsets}}, then the tensors' bytes (huggingface/safetensors README, "Format").
 */
import { closeSync, existsSync, fstatSync, openSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../errors.js";
import { jsonOf, readJson } from "../../files.js";
import { widenBfloat16, widenFloat16 } from "../half.js";

export const BYTES_PER_ELEMENT: Readonly<Record<string, number>> = {
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

export interface StoredTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly size: number;
  readonly file: string;
  /** Absolute position of its first byte in `file`. */
  readonly position: number;
}

// The format's own limit (safetensors/src/tensor.rs, MAX_HEADER_SIZE): longer means damage.
const MAX_HEADER_BYTES = 100_000_000;
export const IO_BYTES = 8 << 20;

const headerSchema = z.record(z.string(), z.unknown());
const entrySchema = z.object({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
});
export const SHARD_INDEX = "model.safetensors.index.json";
const shardIndexSchema = z.looseObject({
  weight_map: z
    .record(z.string(), z.string().regex(/^[^/\\]+\.safetensors$/, "expected a .safetensors file beside the index"))
    .refine((map) => Object.keys(map).length > 0, "no tensor"),
});

/** Lists tensors, reading headers only. @throws UserError for missing or damaged files */
export function readSafetensors(path: string): Map<string, StoredTensor> {
  if (!existsSync(path))
    throw new UserError(`${path}: expected a safetensors file or a model folder, found nothing. Check the path.`);
  if (!statSync(path).isDirectory()) return readHeader(path);
  const single = join(path, "model.safetensors");
  const index = join(path, SHARD_INDEX);
  if (existsSync(single)) return readHeader(single);
  if (existsSync(index)) return readShards(path, index);
  throw new UserError(
    `${path}: expected model.safetensors or model.safetensors.index.json, found neither. Point model.path at a folder with safetensors weights.`,
  );
}

/** Reads one tensor, widened exactly to float32. @param into of the tensor's size */
export function readTensor(tensor: StoredTensor, into: Float32Array = new Float32Array(tensor.size)): Float32Array {
  if (into.length !== tensor.size)
    throw new Error(`${tensor.name}: room for ${into.length} values, the tensor has ${tensor.size}`);
  const fd = openSync(tensor.file, "r");
  try {
    if (tensor.dtype === "F32") {
      readFully(fd, new Uint8Array(into.buffer, into.byteOffset, into.byteLength), tensor.position, tensor.file);
    } else if (tensor.dtype === "F16" || tensor.dtype === "BF16") {
      const widen = tensor.dtype === "BF16" ? widenBfloat16 : widenFloat16;
      const scratch = new Uint16Array(Math.min(tensor.size, IO_BYTES / 2));
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

/** Reads a tensor as `readTensor`. @throws UserError for a value that is no finite number */
export function readWeight(tensor: StoredTensor, into?: Float32Array): Float32Array {
  const values = readTensor(tensor, into);
  const bad = nonFinite(values);
  if (bad === undefined) return values;
  throw new UserError(
    `${tensor.file}: ${tensor.name}: expected finite numbers, found ${bad}. Use weights from before that happened.`,
  );
}

/** Whether two tensors hold the same numbers; reads a part at a time. */
export function sameValues(a: StoredTensor, b: StoredTensor): boolean {
  if (a.shape.join() !== b.shape.join()) return false;
  for (let from = 0; from < a.size; from += IO_BYTES) {
    const [left, right] = [a, b].map((t) => {
      const position = t.position + from * BYTES_PER_ELEMENT[t.dtype]!;
      return readTensor({ ...t, position, size: Math.min(IO_BYTES, t.size - from) });
    });
    if (left!.some((value, i) => value !== right![i])) return false;
  }
  return true;
}

/** The first value that is no finite number. */
export function nonFinite(values: Float32Array): number | undefined {
  for (const value of values) if (!Number.isFinite(value)) return value;
  return undefined;
}

// ---- headers

function readHeader(file: string): Map<string, StoredTensor> {
  const damaged = (what: string): UserError =>
    new UserError(`${file}: not a whole safetensors file: ${what}. Download or copy the file again.`);
  const fd = openSync(file, "r");
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw damaged("expected a file, found a folder");
    const fileBytes = stat.size;
    if (fileBytes < 8) throw damaged(`expected at least 8 bytes, found ${fileBytes}`);
    const length = Buffer.alloc(8);
    readFully(fd, length, 0, file);
    if (length.toString("latin1") === "version ")
      throw new UserError(
        `${file}: expected a safetensors file, found a git-LFS pointer. Fetch the file that it stands for: git lfs pull`,
      );
    const headerBytes = Number(length.readBigUInt64LE());
    if (headerBytes > MAX_HEADER_BYTES)
      throw damaged(`the header length reads ${headerBytes}, expected at most ${MAX_HEADER_BYTES}`);
    if (8 + headerBytes > fileBytes)
      throw damaged(`expected a header of ${headerBytes} bytes, found a file of ${fileBytes}`);
    const text = Buffer.alloc(headerBytes);
    readFully(fd, text, 8, file);
    const header = headerSchema.safeParse(jsonOf(text.toString("utf8")));
    if (!header.success) throw damaged("expected a JSON header, an object of tensors");
    return placeTensors(file, header.data, 8 + headerBytes, fileBytes, damaged);
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
    const width = BYTES_PER_ELEMENT[dtype];
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
  const weightMap = readShardIndex(indexFile);
  const all = new Map<string, StoredTensor>();
  for (const shard of new Set(Object.values(weightMap))) {
    const file = join(folder, shard);
    if (!existsSync(file))
      throw new UserError(
        `${indexFile} names the shard ${shard}, which is not in the folder. Download the missing file.`,
      );
    for (const [name, tensor] of readHeader(file)) {
      if (weightMap[name] === shard) all.set(name, tensor);
    }
  }
  for (const [name, shard] of Object.entries(weightMap)) {
    if (!all.has(name))
      throw new UserError(
        `${join(folder, shard)}: expected ${name} (by ${indexFile}), found no such tensor. Download both files again.`,
      );
  }
  return all;
}

/** Reads which file of a sharded model holds which tensor. */
export function readShardIndex(indexFile: string): Record<string, string> {
  return readJson(indexFile, shardIndexSchema, "Download the file again.").weight_map;
}

// ---- bytes

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
