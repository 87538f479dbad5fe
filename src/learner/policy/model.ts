/**
 * What the learner trains and what stays frozen, by name.
 *   full:  [ policy | value trunk? | value head? ]        frozen: the reference policy, if needed
 *   LoRA:  [ adapters | value adapters? | value head? ]   frozen: the base, which is the reference
 * The policy's part comes first, so what is published is a prefix.
 */
import type { Tensor, Variable } from "@tensorflow/tfjs";
import { join } from "node:path";
import { needsReference } from "../../config/derived.js";
import type { RunConfig } from "../../config/schema.js";
import type { ModelConfig } from "../../model/config.js";
import { layoutSize, packShapes, tensorsIn, weightLayout, type LayoutEntry } from "../../model/layout.js";
import { saveModelFolder } from "../../model/folder.js";
import { saveAdapterFolder } from "../../model/lora.js";
import { mulberry32 } from "../../math/random.js";
import { publishedLayout, hashLine, hashOfLines } from "../../model/identity.js";
import { loadPacked, weightReader } from "../../model/model-weights.js";
import { writeSafetensors } from "../../model/safetensors/write.js";
import type { TF } from "../backend/backend.js";
import { forgetConstants } from "../backend/products.js";
import { splitFlat, type NamedWeights } from "./named-weights.js";

/** Prefix of the separate value trunk's (or its adapters') names. */
const VALUE_PREFIX = "value_model.";

type Views = ReadonlyMap<string, Tensor>;

/** Weights read when they are asked for: a large model must not exist twice while it is loaded. */
export interface BaseWeights {
  /** One tensor's values, in an array of its own. */
  tensor(entry: LayoutEntry): Float32Array;
  /** All values, in `weightLayout` order. */
  all(into: Float32Array): void;
}

export const baseFromFolder = (folder: string, shape: ModelConfig): BaseWeights => ({
  tensor: weightReader(folder, shape),
  all: (into) => void loadPacked(folder, shape, into),
});

/** A checkpoint that is in memory already. @param packed values in `weightLayout` order */
export function baseFromPacked(packed: Float32Array): BaseWeights {
  return { tensor: ({ offset, size }) => packed.slice(offset, offset + size), all: (into) => into.set(packed) };
}

export class TrainableModel {
  readonly #tf: TF;
  readonly #run: RunConfig;
  readonly shape: ModelConfig;
  readonly #lora: NamedWeights["lora"];
  /** Every trainable parameter; the published ones first. */
  readonly layout: readonly LayoutEntry[];
  readonly publishedLayout: readonly LayoutEntry[];
  readonly flat: Variable;
  /** Base weights under LoRA, the reference policy otherwise; null when neither is needed. */
  readonly #frozen: Views | null;
  readonly separateValue: boolean;

  /** Hash of the frozen tensors; null when there are none. */
  readonly frozenSha256: string | null;

  /** `trainable` is a resumed vector; null starts from the base, new adapters and a zero head. */
  constructor(tf: TF, shape: ModelConfig, run: RunConfig, base: BaseWeights, trainable: Float32Array | null) {
    this.#tf = tf;
    this.#run = run;
    this.shape = shape;
    const { lora } = run;
    this.#lora = lora.enabled ? { scale: lora.lora_alpha / lora.r, dropout: null } : null;
    this.publishedLayout = publishedLayout(shape, lora.enabled ? lora : null);
    this.separateValue = run.algo === "ppo" && run.value_model === "separate";
    const shapes = (entries: readonly LayoutEntry[], prefix: string): [string, readonly number[]][] =>
      entries.map((entry) => [prefix + entry.name, entry.shape]);
    const valueHead: [string, readonly number[]][] = [
      ["value_head.weight", [shape.hiddenSize]],
      ["value_head.bias", []],
    ];
    this.layout = packShapes([
      ...shapes(this.publishedLayout, ""),
      ...(this.separateValue ? shapes(this.publishedLayout, VALUE_PREFIX) : []),
      ...(run.algo === "ppo" ? valueHead : []),
    ]);
    // A variable is a copy: what it starts from must go, or the parameters would exist twice.
    this.flat = tf.tidy(() => tf.variable(tf.tensor1d(trainable ?? this.#initial(base, run.seed))));
    if (!lora.enabled && !needsReference(run)) {
      this.#frozen = null;
      this.frozenSha256 = null;
      return;
    }
    const frozen = new Map<string, Tensor>();
    const lines: string[] = [];
    for (const entry of weightLayout(shape)) {
      const values = base.tensor(entry);
      lines.push(hashLine(entry, values));
      // tfjs-node hands values over with the first operation: here, so that the array can go.
      frozen.set(
        entry.name,
        tf.tidy(() => tf.reshape(tf.tensor1d(values), [...entry.shape])),
      );
    }
    this.#frozen = frozen;
    this.frozenSha256 = hashOfLines(lines);
  }

  #initial(base: BaseWeights, seed: number): Float32Array {
    const start = new Float32Array(layoutSize(this.layout));
    const size = layoutSize(this.publishedLayout);
    if (this.#lora === null) {
      base.all(start.subarray(0, size));
    } else {
      const random = mulberry32(seed);
      for (const { name, shape, offset, size } of this.publishedLayout) {
        if (!name.endsWith("lora_A.weight")) continue;
        // kaiming_uniform, a = sqrt(5): U(-1/sqrt(in), 1/sqrt(in)) (PEFT's reset_lora_parameters)
        const bound = 1 / Math.sqrt(shape[1]!);
        for (let i = offset; i < offset + size; i++) start[i] = (2 * random() - 1) * bound;
      }
    }
    if (this.separateValue) start.copyWithin(size, 0, size);
    return start;
  }

  get publishedSize(): number {
    return layoutSize(this.publishedLayout);
  }

  /** Inside a gradient function, the views carry the gradient back to `flat`. */
  views(): Views {
    return splitFlat(this.#tf, this.flat, this.layout);
  }

  viewsOfPublished(published: Tensor): Views {
    return splitFlat(this.#tf, published, this.publishedLayout);
  }

  /** The policy's weights out of `views()`, without dropout. */
  policy(views: Views): NamedWeights {
    return { tensors: this.#lora === null ? views : new Map([...this.#frozen!, ...views]), lora: this.#lora };
  }

  /** The value function's trunk: the policy's own, or the separate one. */
  value(views: Views): NamedWeights {
    if (!this.separateValue) return this.policy(views);
    const trunk = [...views].flatMap(([name, tensor]): [string, Tensor][] =>
      name.startsWith(VALUE_PREFIX) ? [[name.slice(VALUE_PREFIX.length), tensor]] : [],
    );
    return { tensors: new Map([...(this.#lora === null ? [] : this.#frozen!), ...trunk]), lora: this.#lora };
  }

  /** The frozen reference policy (adapters off under LoRA). */
  reference(): NamedWeights {
    if (this.#frozen === null) throw new Error("this run keeps no reference policy");
    return { tensors: this.#frozen, lora: null };
  }

  /** Writes an HF folder (PEFT's with LoRA), and the value head beside it, from `flat`'s values. */
  save(folder: string, sourceFolder: string, vector: Float32Array): void {
    const published = vector.subarray(0, this.publishedSize);
    if (this.#lora === null) saveModelFolder(folder, sourceFolder, this.shape, published);
    else saveAdapterFolder(folder, sourceFolder, this.publishedLayout, published, this.#run.lora);
    const rest = this.layout.filter((entry) => entry.offset >= this.publishedSize);
    if (rest.length > 0) writeSafetensors(join(folder, "value_head.safetensors"), tensorsIn(vector, rest));
  }

  /** [publishedSize] copy of what the actors need. */
  async published(): Promise<Float32Array> {
    const prefix = this.#tf.slice(this.flat, [0], [this.publishedSize]);
    const values = (await prefix.data()) as Float32Array;
    prefix.dispose();
    return values;
  }

  dispose(): void {
    this.flat.dispose();
    if (this.#frozen === null) return;
    forgetConstants(this.#tf, this.#frozen.values());
    this.#tf.dispose([...this.#frozen.values()]);
  }
}
