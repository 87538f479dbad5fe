/** Keys and values between segments, in buffers that are reused so that no run makes garbage. */
import { Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../model/config.js";
import { cacheNames } from "./graph/qwen2.js";

/** Where a row lies in the cache; written by the cache. */
export interface Place {
  /** Its row in the last segment; -1 before the first one. */
  row: number;
  /** First slot that is its own. */
  start: number;
}

/** Keys or values: float32 numbers, or the bits of float16 ones. */
export type Values = Float32Array | Uint16Array;
export type ValueType = "float32" | "float16";

export function newValues(dtype: ValueType, size: number): Values {
  return dtype === "float16" ? new Uint16Array(size) : new Float32Array(size);
}

export function valuesOf(tensor: Tensor): Values {
  return tensor.type === "float16" ? halfBits(tensor) : (tensor.data as Float32Array);
}

/** Data of a float16 tensor as bits; a newer Node's Float16Array would be read as numbers. */
export function halfBits(tensor: Tensor): Uint16Array {
  const { buffer, byteOffset, length } = tensor.data as Uint16Array;
  return new Uint16Array(buffer, byteOffset, length);
}

/** Buffers by name, grown by half when too small. Old contents stay: stale but finite. */
class Buffers {
  readonly #dtype: ValueType;
  readonly #held = new Map<string, Values>();

  constructor(dtype: ValueType) {
    this.#dtype = dtype;
  }

  take(name: string, size: number): Values {
    let buffer = this.#held.get(name);
    if (buffer === undefined || buffer.length < size) {
      buffer = newValues(this.#dtype, buffer === undefined ? size : Math.ceil(size * 1.5));
      this.#held.set(name, buffer);
    }
    return buffer.subarray(0, size);
  }
}

/** Two sets of buffers, rows being copied from one to the other, and what the last run gave. */
export class TwoSets {
  #sets: [from: Buffers, to: Buffers];
  /** Outputs of the last run, not yet copied. */
  #recent: Record<string, Tensor> = {};
  recentSteps = 0;

  constructor(dtype: ValueType) {
    this.#sets = [new Buffers(dtype), new Buffers(dtype)];
  }

  from(name: string, size: number): Values {
    return this.#sets[0].take(name, size);
  }

  to(name: string, size: number): Values {
    return this.#sets[1].take(name, size);
  }

  recent(name: string): Values | undefined {
    const newest = this.#recent[name];
    return newest === undefined ? undefined : valuesOf(newest);
  }

  append(outputs: Record<string, Tensor>, steps: number): void {
    this.#recent = outputs;
    this.recentSteps = steps;
  }

  /** What was written becomes what is read; the last run's steps are in it. */
  turn(): void {
    this.#sets.reverse();
    this.append({}, 0);
  }
}

export interface Prompt {
  /** Tokens; may be 0. */
  readonly length: number;
  /** Keys, then values, of each layer: [Hkv, length, D]; none when `length` is 0. */
  readonly parts: Values[];
}

/** Prompts side by side, one per block, right-padded with stale entries. */
export class PromptCache {
  /** `prompt_k/v.<layer>`, [Hkv, 1, Q, Tp, D], for the next run. */
  readonly feeds: Record<string, Tensor> = {};
  readonly #shape: ModelConfig;
  readonly #dtype: ValueType;
  readonly #buffers: Buffers;
  #blocks: readonly Prompt[] = [];
  #length = 0;

  constructor(shape: ModelConfig, dtype: ValueType) {
    this.#shape = shape;
    this.#dtype = dtype;
    this.#buffers = new Buffers(dtype);
  }

  clear(): void {
    this.#blocks = [];
  }

  /** Makes `feeds` for these blocks, if it is not theirs. @returns the padded length Tp ≥ 1 */
  arrange(blocks: readonly Prompt[]): number {
    if (blocks.length === this.#blocks.length && blocks.every((prompt, q) => prompt === this.#blocks[q])) {
      return this.#length;
    }
    const { numLayers, numKvHeads, headDim } = this.#shape;
    const length = Math.max(1, ...blocks.map((prompt) => prompt.length));
    for (let layer = 0; layer < numLayers; layer++) {
      Object.values(cacheNames("prompt", layer)).forEach((name, part) => {
        const target = this.#buffers.take(name, numKvHeads * blocks.length * length * headDim);
        blocks.forEach((prompt, q) => {
          const own = prompt.parts[2 * layer + part];
          if (own === undefined) return;
          const size = prompt.length * headDim;
          for (let head = 0; head < numKvHeads; head++) {
            target.set(own.subarray(head * size, (head + 1) * size), (head * blocks.length + q) * length * headDim);
          }
        });
        this.feeds[name] = new Tensor(this.#dtype, target, [numKvHeads, 1, blocks.length, length, headDim]);
      });
    }
    this.#blocks = blocks;
    this.#length = length;
    return length;
  }
}

/** Generated tokens, right-aligned on T slots: T - 1 is the newest, a row owns [start, T). */
export class GeneratedCache {
  /** `past_k/v.<layer>`, [Hkv, 1, R, T, D], for the next run. */
  readonly feeds: Record<string, Tensor> = {};
  readonly #shape: ModelConfig;
  readonly #dtype: ValueType;
  /** The last run's `next_k/v.<layer>` are [Hkv, 1, R, steps, D]. */
  readonly #sets: TwoSets;
  #rows = 0;
  #slots = 0;

  constructor(shape: ModelConfig, dtype: ValueType) {
    this.#shape = shape;
    this.#dtype = dtype;
    this.#sets = new TwoSets(dtype);
  }

  clear(): void {
    this.#rows = 0;
    this.#slots = 0;
    this.append({}, 0);
  }

  /** Takes the outputs of a run of `steps` steps; the rows are those of the last `arrange`. */
  append(outputs: Record<string, Tensor>, steps: number): void {
    this.#sets.append(outputs, steps);
  }

  /** Makes `feeds` for these rows, cuts slots that no row uses, and returns the slot count T. */
  arrange(places: readonly Place[]): number {
    const { numLayers, numKvHeads, headDim: D } = this.#shape;
    const { recentSteps } = this.#sets;
    const end = this.#slots + recentSteps;
    const first = Math.min(end, ...places.map((place) => (place.row < 0 ? end : place.start)));
    const slots = end - first;
    const rows = places.length;
    for (let layer = 0; layer < numLayers; layer++) {
      const past = cacheNames("past", layer);
      const next = cacheNames("next", layer);
      for (const part of ["k", "v"] as const) {
        const source = this.#sets.from(past[part], numKvHeads * this.#rows * this.#slots * D);
        const recent = this.#sets.recent(next[part]);
        const target = this.#sets.to(past[part], numKvHeads * rows * slots * D);
        places.forEach((place, r) => {
          if (place.row < 0) return;
          for (let head = 0; head < numKvHeads; head++) {
            const sourceRow = head * this.#rows + place.row;
            const targetEnd = (head * rows + r + 1) * slots;
            const old = Math.max(0, this.#slots - place.start); // slots of its own before the last run
            const fresh = Math.min(recentSteps, end - place.start);
            if (old > 0) {
              const stop = (sourceRow + 1) * this.#slots * D;
              target.set(source.subarray(stop - old * D, stop), (targetEnd - fresh - old) * D);
            }
            if (recent !== undefined) {
              const stop = (sourceRow + 1) * recentSteps * D;
              target.set(recent.subarray(stop - fresh * D, stop), (targetEnd - fresh) * D);
            }
          }
        });
        this.feeds[past[part]] = new Tensor(this.#dtype, target, [numKvHeads, 1, rows, slots, D]);
      }
    }
    places.forEach((place, r) => {
      place.start = place.row < 0 ? slots : place.start - first;
      place.row = r;
    });
    this.#sets.turn();
    this.#rows = rows;
    this.#slots = slots;
    return slots;
  }
}
