/** Merges arriving LoRA adapters: W + (lora_alpha / r) · B A (Hu et al. 2021, §4.1), in a Gemm. */
import { InferenceSession, Tensor } from "onnxruntime-node";
import { UserError } from "../errors.js";
import type { ModelConfig } from "../model/config.js";
import type { LayoutEntry } from "../model/layout.js";
import { adapterPairs, loraLayout, type LoraSpec } from "../model/lora.js";
import { hashLine, hashOfLines, publishedHash } from "../model/identity.js";
import { modelTensors } from "../model/model-weights.js";
import { type StoredTensor, readTensor, readWeight } from "../model/safetensors/read.js";
import type { AdaptersOnBase } from "./engine-types.js";
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

/** A matrix that an adapter changes: of the base on disk, and where its merged values go. */
interface Target {
  readonly stored: StoredTensor;
  readonly entry: LayoutEntry;
  readonly a: LayoutEntry;
  readonly b: LayoutEntry;
  readonly into: Matrix;
  /** The hash of the base's values. */
  readonly line: string;
}

/** Keeps no base beside the merged weights: what an adapter changes is read again at each merge. */
export class AdapterMerger {
  readonly layout: readonly LayoutEntry[];
  readonly #targets: readonly Target[];
  readonly #baseSha256: string;
  readonly #merge: MatrixMerge;
  /** Room for one matrix of the base. */
  readonly #scratch: Float32Array;

  private constructor(layout: readonly LayoutEntry[], targets: readonly Target[], sha256: string, merge: MatrixMerge) {
    this.layout = layout;
    this.#targets = targets;
    this.#baseSha256 = sha256;
    this.#merge = merge;
    this.#scratch = new Float32Array(targets.reduce((most, { entry }) => Math.max(most, entry.size), 0));
  }

  /** Fills `arena` (weightLayout order) with the base, which every merge changes in part. */
  static async create(
    shape: ModelConfig,
    { spec, baseFolder }: AdaptersOnBase,
    arena: Float32Array,
    threads: number,
  ): Promise<AdapterMerger> {
    const layout = loraLayout(shape, spec);
    const pairs = new Map(adapterPairs(layout).map((pair) => [pair.target, pair]));
    const lines: string[] = [];
    const targets: Target[] = [];
    for (const { entry, stored } of modelTensors(baseFolder, shape)) {
      const into = matrixOf(arena, entry);
      const line = hashLine(entry, readWeight(stored, into.values));
      lines.push(line);
      const pair = pairs.get(entry.name);
      if (pair !== undefined) targets.push({ stored, entry, a: pair.a, b: pair.b, into, line });
    }
    return new AdapterMerger(layout, targets, hashOfLines(lines), await createMatrixMerge(spec, threads));
  }

  /** @returns the hash of base and adapters @throws UserError when the base has changed on disk */
  async merge(published: Float32Array): Promise<string> {
    // ONNX Runtime refuses shared memory, and the hash is of the copy that is merged.
    const adapters = published.slice();
    for (const { stored, entry, a, b, into, line } of this.#targets) {
      const base = { values: readTensor(stored, this.#scratch.subarray(0, entry.size)), shape: entry.shape };
      if (hashLine(entry, base.values) !== line)
        throw new UserError(
          `${stored.file}: ${entry.name}: expected the values that were there at the start, found others. Put the file back, and leave it while it is used.`,
        );
      await this.#merge.run(base, matrixOf(adapters, b), matrixOf(adapters, a), into);
    }
    return publishedHash(adapters, this.layout, this.#baseSha256);
  }

  async dispose(): Promise<void> {
    await this.#merge.release();
  }
}
