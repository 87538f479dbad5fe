/** What segment.ts reads beside every decode graph's inputs: caches in parts, places of rows. */
import { Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../model/config.js";
import type { Arranged, SegmentCache } from "./batch.js";
import { MASKED } from "./graph/qwen2.js";
import { GeneratedCache, PromptCache, type ValueType } from "./kv-cache.js";

export class PartedCache implements SegmentCache {
  readonly #segmentLength: number;
  readonly #prompts: PromptCache;
  readonly #generated: GeneratedCache;

  constructor(shape: ModelConfig, dtype: ValueType, segmentLength: number) {
    this.#segmentLength = segmentLength;
    this.#prompts = new PromptCache(shape, dtype);
    this.#generated = new GeneratedCache(shape, dtype);
  }

  feeds({ rows, blocks, blockRows, rowPlaces }: Arranged): Record<string, Tensor> {
    const R = rows.length;
    const promptLength = this.#prompts.arrange(blocks.map((group) => group.prompt));
    const slots = this.#generated.arrange(rows.map((row) => row.place));
    const columns = promptLength + slots + this.#segmentLength;
    const mask = new Float32Array(R * columns);
    const position = new BigInt64Array(R);
    rows.forEach((row, r) => {
      const prefix = row.group.prompt.length;
      mask.fill(MASKED, r * columns + prefix, r * columns + promptLength + row.place.start);
      position[r] = BigInt(prefix + row.ids.length);
    });
    return {
      ...this.#prompts.feeds,
      ...this.#generated.feeds,
      block_rows: new Tensor("int64", blockRows, [blocks.length, blockRows.length / blocks.length]),
      row_places: new Tensor("int64", rowPlaces, [R, 1]),
      mask: new Tensor("float32", mask, [R, 1, columns]),
      position: new Tensor("int64", position, [1, R]),
    };
  }

  append(outputs: Record<string, Tensor>, steps: number): void {
    this.#generated.append(outputs, steps);
  }

  clear(): void {
    this.#generated.clear();
    this.#prompts.clear();
  }
}
