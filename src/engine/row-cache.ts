/** What grouped-segment.ts reads beside every decode graph's inputs: a cache of whole rows. */
import { Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../model/config.js";
import type { Arranged, SegmentCache } from "./batch.js";
import { cacheNames } from "./graph/qwen2.js";
import { TwoSets, type ValueType } from "./kv-cache.js";

/** Prompt and completion of each row, left-aligned on T slots. */
export class RowCache implements SegmentCache {
  readonly #shape: ModelConfig;
  readonly #dtype: ValueType;
  /** The last run's `next_k/v.<layer>` are [R, Hkv, steps, D]. */
  readonly #sets: TwoSets;
  /** Tokens of each row in the cache at the last `feeds`. */
  #lengths: readonly number[] = [];
  #slots = 0;

  constructor(shape: ModelConfig, dtype: ValueType) {
    this.#shape = shape;
    this.#dtype = dtype;
    this.#sets = new TwoSets(dtype);
  }

  clear(): void {
    this.#lengths = [];
    this.#slots = 0;
    this.append({}, 0);
  }

  append(outputs: Record<string, Tensor>, steps: number): void {
    this.#sets.append(outputs, steps);
  }

  feeds({ rows }: Arranged): Record<string, Tensor> {
    const { numLayers, numKvHeads, headDim: D } = this.#shape;
    const { recentSteps } = this.#sets;
    const R = rows.length;
    const lengths = rows.map(({ group, ids }) => group.prompt.length + ids.length);
    const slots = Math.max(1, ...lengths);
    const feeds: Record<string, Tensor> = { lengths: new Tensor("int32", Int32Array.from(lengths), [R]) };
    for (let layer = 0; layer < numLayers; layer++) {
      const [past, next] = [cacheNames("past", layer), cacheNames("next", layer)];
      (["k", "v"] as const).forEach((part, p) => {
        const source = this.#sets.from(past[part], this.#lengths.length * numKvHeads * this.#slots * D);
        const recent = this.#sets.recent(next[part]);
        const target = this.#sets.to(past[part], R * numKvHeads * slots * D);
        rows.forEach(({ place, group: { prompt } }, r) => {
          const old = place.row < 0 ? prompt.length : this.#lengths[place.row]!;
          const own = place.row < 0 ? prompt.parts[2 * layer + p] : source;
          for (let head = 0; head < numKvHeads; head++) {
            const row = r * numKvHeads + head;
            const start = place.row < 0 ? head * old : (place.row * numKvHeads + head) * this.#slots;
            if (own !== undefined) target.set(own.subarray(start * D, (start + old) * D), row * slots * D);
            if (place.row < 0 || recent === undefined) continue;
            const steps = (place.row * numKvHeads + head) * recentSteps;
            const fresh = recent.subarray(steps * D, (steps + lengths[r]! - old) * D);
            target.set(fresh, (row * slots + old) * D);
          }
        });
        feeds[past[part]] = new Tensor(this.#dtype, target, [R, numKvHeads, slots, D]);
      });
    }
    rows.forEach(({ place }, r) => (place.row = r));
    this.#sets.turn();
    this.#lengths = lengths;
    this.#slots = slots;
    return feeds;
  }
}
