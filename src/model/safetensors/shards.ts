/** One model.safetensors, or shards and index, split as huggingface_hub's _base.py does. */
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { writeJson } from "../../files.js";
import { SHARD_INDEX } from "./read.js";
import { createSafetensors, storedBytes, type StoredDtype, type TensorToWrite } from "./write.js";

/** Fills shards in order; a tensor above the limit gets its own, before the one being filled. */
export function splitIntoShards<T extends { readonly size: number }>(
  tensors: readonly T[],
  bytesPerValue: number,
  maxShardBytes: number,
): T[][] {
  const shards: T[][] = [];
  let current: T[] = [];
  let bytes = 0;
  for (const tensor of tensors) {
    const more = tensor.size * bytesPerValue;
    if (more > maxShardBytes) {
      shards.push([tensor]);
      continue;
    }
    if (bytes + more > maxShardBytes) {
      shards.push(current);
      [current, bytes] = [[], 0];
    }
    current.push(tensor);
    bytes += more;
  }
  return current.length > 0 ? [...shards, current] : shards;
}

/** @param onWritten gets each tensor's stored bytes @throws UserError for values F16 lacks */
export async function writeShards(
  folder: string,
  tensors: readonly (TensorToWrite<Promise<Float32Array>> & { readonly size: number })[],
  dtype: StoredDtype,
  maxShardBytes: number,
  onWritten: (bytes: number) => void,
): Promise<void> {
  const width = storedBytes(dtype);
  const shards = splitIntoShards(tensors, width, maxShardBytes);
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const number = (n: number): string => String(n).padStart(5, "0");
    const name =
      shards.length === 1 ? "model.safetensors" : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    const out = createSafetensors(join(folder, name), shard, dtype);
    try {
      for (const tensor of shard) {
        out.append(typeof tensor.data === "function" ? await tensor.data() : tensor.data);
        weightMap[tensor.name] = name;
        onWritten(tensor.size * width);
        await setImmediate(); // signals and the progress bar have their turn
      }
      out.finish();
    } catch (error) {
      out.discard();
      throw error;
    }
  }
  if (shards.length === 1) return;
  const parameters = tensors.reduce((sum, { size }) => sum + size, 0);
  const index = { metadata: { total_parameters: parameters, total_size: parameters * width }, weight_map: weightMap };
  writeJson(join(folder, SHARD_INDEX), index);
}
