/** Merges arriving LoRA adapters: W + (lora_alpha / r) · B A (Hu et al. 2021, §4.1), in a Gemm. */
import { InferenceSession, Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../model/config.js";
import { weightLayout, type LayoutEntry } from "../model/layout.js";
import { adapterPairs, loraLayout, type LoraSpec } from "../model/lora.js";
import { publishedHash, hashPacked } from "../model/identity.js";
import { Graph } from "./graph/onnx.js";

/** Row by row, in memory that is not shared: ONNX Runtime takes no other. */
export interface Matrix {
  readonly values: Float32Array;
  readonly shape: readonly number[];
}

export function matrixOf(packed: Float32Array, { offset, size, shape }: LayoutEntry): Matrix {
  return { values: packed.subarray(offset, offset + size), shape };
}

export type MatrixMerge = Awaited<ReturnType<typeof createMatrixMerge>>;

export async function createMatrixMerge(lora: Pick<LoraSpec, "r" | "lora_alpha">, threads: number) {
  const g = new Graph();
  const [b, a, w] = ["b", "a", "w"].map((name) => g.input(name, "float32", [`${name}_rows`, `${name}_columns`]));
  g.nodeTo(["merged"], "Gemm", [b!, a!, w!], { alpha: { float: lora.lora_alpha / lora.r } });
  g.output("merged", "float32", ["w_rows", "w_columns"]);
  const gemm = await InferenceSession.create(g.encodeModel(), { intraOpNumThreads: threads, enableMemPattern: false });
  const tensor = ({ values, shape }: Matrix): Tensor => new Tensor("float32", values, shape);
  return {
    /** w [out, in], b [out, r], a [r, in] → into, not part of w: saves half of a merge's time. */
    run: async (w: Matrix, b: Matrix, a: Matrix, into: Matrix): Promise<void> =>
      void (await gemm.run({ b: tensor(b), a: tensor(a), w: tensor(w) }, { merged: tensor(into) })),
    release: () => gemm.release(),
  };
}

export class AdapterMerger {
  readonly layout: readonly LayoutEntry[];
  readonly #base: Float32Array;
  readonly #baseLayout: ReadonlyMap<string, LayoutEntry>;
  readonly #baseSha256: string;
  readonly #merge: MatrixMerge;
  /** The arena that holds the base where no adapter goes: that part never changes. */
  #filled: Float32Array | null = null;

  private constructor(shape: ModelConfig, lora: LoraSpec, base: Float32Array, merge: MatrixMerge) {
    this.layout = loraLayout(shape, lora);
    this.#base = base;
    const baseLayout = weightLayout(shape);
    this.#baseLayout = new Map(baseLayout.map((entry) => [entry.name, entry]));
    this.#baseSha256 = hashPacked(base, baseLayout);
    this.#merge = merge;
  }

  /** @param base the frozen weights in `weightLayout` order; kept, not copied */
  static async create(shape: ModelConfig, lora: LoraSpec, base: Float32Array, threads: number): Promise<AdapterMerger> {
    return new AdapterMerger(shape, lora, base, await createMatrixMerge(lora, threads));
  }

  /** Fills `arena` (weightLayout order) with the merged weights. @returns the pair's hash */
  async mergeInto(arena: Float32Array, published: Float32Array): Promise<string> {
    // ONNX Runtime refuses shared memory, and the hash is of the copy that is merged.
    const adapters = published.slice();
    if (this.#filled !== arena) arena.set(this.#base);
    this.#filled = arena;
    for (const { target, a, b } of adapterPairs(this.layout)) {
      const weight = this.#baseLayout.get(target)!;
      const [w, into] = [matrixOf(this.#base, weight), matrixOf(arena, weight)];
      await this.#merge.run(w, matrixOf(adapters, b), matrixOf(adapters, a), into);
    }
    return publishedHash(adapters, this.layout, this.#baseSha256);
  }

  async dispose(): Promise<void> {
    await this.#merge.release();
  }
}
