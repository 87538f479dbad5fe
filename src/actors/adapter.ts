/**
 * LoRA in the actor: adapters arrive, merged weights are sampled from: W + (lora_alpha / r) · B A (Hu et al. 2021, §4.1).
 * Merging costs a moment per policy version and nothing per token. The products run in ONNX Runtime (one Gemm node).
 */
import { InferenceSession, Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../model/config.js";
import { weightLayout, type LayoutEntry } from "../model/layout.js";
import { loraLayout, type LoraSpec } from "../model/lora.js";
import { publishedHash } from "../model/published.js";
import { hashPacked } from "../model/weights.js";
import { Graph } from "./graph/onnx.js";

export class AdapterMerger {
  readonly layout: readonly LayoutEntry[];
  readonly #base: Float32Array;
  readonly #baseLayout: ReadonlyMap<string, LayoutEntry>;
  readonly #baseSha256: string;
  readonly #gemm: InferenceSession;
  /** The arena that holds the base where no adapter goes: that part never changes. */
  #filled: Float32Array | null = null;

  private constructor(config: ModelConfig, lora: LoraSpec, base: Float32Array, gemm: InferenceSession) {
    this.layout = loraLayout(config, lora);
    this.#base = base;
    const baseLayout = weightLayout(config);
    this.#baseLayout = new Map(baseLayout.map((entry) => [entry.name, entry]));
    this.#baseSha256 = hashPacked(base, baseLayout);
    this.#gemm = gemm;
  }

  /** @param base the frozen weights in `weightLayout` order; kept, not copied */
  static async create(
    config: ModelConfig,
    lora: LoraSpec,
    base: Float32Array,
    threads: number,
  ): Promise<AdapterMerger> {
    const g = Graph.create();
    const [b, a, w] = ["b", "a", "w"].map((name) =>
      g.input(
        name,
        "float32",
        ["rows", "columns"].map((dim) => `${name}_${dim}`),
      ),
    );
    g.nodeTo(["merged"], "Gemm", [b!, a!, w!], { alpha: { float: lora.lora_alpha / lora.r } });
    g.output("merged", "float32", ["w_rows", "w_columns"]);
    const gemm = await InferenceSession.create(g.encodeModel(), {
      intraOpNumThreads: threads,
      enableMemPattern: false,
    });
    return new AdapterMerger(config, lora, base, gemm);
  }

  /** Fills `arena` (weightLayout order) with the merged weights; returns the hash of the pair that was merged. */
  async mergeInto(arena: Float32Array, published: Float32Array): Promise<string> {
    // What arrives lies in shared memory, which ONNX Runtime refuses; the hash is of the copy that is merged.
    const adapters = published.slice();
    if (this.#filled !== arena) arena.set(this.#base);
    this.#filled = arena;
    const view = (from: Float32Array, { offset, size, shape }: LayoutEntry): Tensor =>
      new Tensor("float32", from.subarray(offset, offset + size), shape);
    for (let i = 0; i < this.layout.length; i += 2) {
      // loraLayout puts each module's A and B side by side.
      const [a, b] = [this.layout[i]!, this.layout[i + 1]!];
      const target = this.#baseLayout.get(a.name.replace(".lora_A.", "."))!;
      const feeds = { b: view(adapters, b), a: view(adapters, a), w: view(this.#base, target) };
      // Into its place in the arena: an output of its own would be allocated and copied, half of the time a merge takes.
      await this.#gemm.run(feeds, { merged: view(arena, target) });
    }
    return publishedHash(adapters, this.layout, this.#baseSha256);
  }

  async dispose(): Promise<void> {
    await this.#gemm.release();
  }
}
