/** Writes safetensors files, whole or not at all (format: see read.ts). */
import { closeSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { fsyncPath, writeFully } from "../../files.js";
import { narrowToBfloat16, narrowToFloat16 } from "../half.js";
import { BYTES_PER_ELEMENT, IO_BYTES } from "./read.js";

/** A tensor to be written; a function makes its values when its turn comes. */
export interface TensorToWrite<Made = Float32Array> {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Float32Array | (() => Made);
}

/** How values are stored. Narrower than float32: rounded to the nearest, ties to even. */
export type StoredDtype = "F32" | "F16" | "BF16";

export const storedBytes = (dtype: StoredDtype): number => BYTES_PER_ELEMENT[dtype]!;

/** Writes one tensor at a time. @throws UserError for a value that F16 does not have */
export function writeSafetensors(file: string, tensors: readonly TensorToWrite[], dtype: StoredDtype = "F32"): void {
  const out = createSafetensors(file, tensors, dtype);
  try {
    for (const { data } of tensors) out.append(typeof data === "function" ? data() : data);
    out.finish();
  } catch (error) {
    out.discard();
    throw error;
  }
}

/** Begins a file whose values come later; it has a temporary name until `finish`. */
export function createSafetensors(
  file: string,
  tensors: readonly { readonly name: string; readonly shape: readonly number[] }[],
  dtype: StoredDtype,
) {
  // transformers asks for the format
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
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
  const out = {
    /** Takes values of the next tensor, in the order announced. */
    append(data: Float32Array): void {
      const { name, shape } = tensors[next]!;
      if (data.length !== sizes[next])
        throw new Error(`${name}: ${data.length} values for shape [${shape.join(", ")}]`);
      next++;
      if (dtype === "F32") return writeFully(fd, bytesOf(data));
      for (let at = 0; at < data.length; at += IO_BYTES / 4) {
        const part = data.subarray(at, at + IO_BYTES / 4);
        writeFully(fd, bytesOf(dtype === "BF16" ? narrowToBfloat16(part) : narrowToFloat16(part, name)));
      }
    },
    finish(): void {
      if (next !== tensors.length) throw new Error(`${file}: ${next} of ${tensors.length} tensors were written`);
      fsyncSync(fd);
      close();
      renameSync(temporary, file);
      fsyncPath(dirname(file));
    },
    discard(): void {
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

function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
