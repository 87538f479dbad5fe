/** AdamW over one flat vector (Loshchilov & Hutter 2019, algorithm 2; torch.optim.AdamW's form). */
import type { Tensor, Variable } from "@tensorflow/tfjs";
import type { RunConfig } from "../../config/schema.js";
import type { LayoutEntry } from "../../model/layout.js";
import type { TF } from "../backend/backend.js";

/** Decay is decoupled, and not applied to norms and biases (Hugging Face's rule). */
type AdamWOptions = Pick<RunConfig, "adam_beta1" | "adam_beta2" | "adam_epsilon" | "weight_decay" | "max_grad_norm">;

export interface AdamWState {
  readonly step: number;
  readonly m: Float32Array;
  readonly v: Float32Array;
}

/** Hugging Face's rule (`get_decay_parameter_names` in transformers' trainer). */
const decays = (name: string): boolean => !name.endsWith(".bias") && !name.includes("norm");

/** Leading parameters that join later: until then neither they nor their moments move. */
export interface LateParameters {
  /** Elements of the flat vector, from its beginning. */
  readonly size: number;
  /** Steps of the others before the first of these. */
  readonly steps: number;
}

/** Elements updated at once: a step's temporaries are about `ADAM_TEMPORARIES` such arrays. */
export const ADAM_PART_SIZE = 4 * 1024 * 1024;
export const ADAM_TEMPORARIES = 20;

interface AdamPart {
  readonly begin: number;
  readonly size: number;
  m: Tensor;
  v: Tensor;
  /** Factor of the learning rate for each element; a scalar where all are the same. */
  readonly rates: Tensor;
  /** Weight decay, likewise; null without decay. */
  readonly decay: Tensor | null;
  /** Steps of the others before its first. */
  readonly lateSteps: number;
}

export class AdamW {
  step = 0;
  readonly #tf: TF;
  readonly #flat: Variable;
  readonly #options: AdamWOptions;
  readonly #parts: AdamPart[] = [];

  /**
   * @param flat [P] all trainable parameters, updated in place
   * @param late parameters that join later (the policy, after the critic's warm-up)
   */
  constructor(
    tf: TF,
    flat: Variable,
    layout: readonly LayoutEntry[],
    options: AdamWOptions,
    rateOf: (name: string) => number = () => 1,
    late: LateParameters | null = null,
    partSize = ADAM_PART_SIZE,
  ) {
    this.#tf = tf;
    this.#flat = flat;
    this.#options = options;
    const decayOf = (name: string): number => (decays(name) ? options.weight_decay : 0);
    const { size: lateSize, steps: lateSteps } = late === null || late.steps === 0 ? { size: 0, steps: 0 } : late;
    let end = 0;
    for (let begin = 0; begin < flat.size; begin = end) {
      end = Math.min(begin + partSize, begin < lateSize ? lateSize : flat.size);
      const size = end - begin;
      const factor = (of: (name: string) => number): Tensor => perElement(tf, layout, begin, size, of);
      this.#parts.push({
        begin,
        size,
        m: tf.zeros([size]),
        v: tf.zeros([size]),
        rates: factor(rateOf),
        decay: options.weight_decay > 0 ? factor(decayOf) : null,
        lateSteps: begin < lateSize ? lateSteps : 0,
      });
    }
  }

  /**
   * Scales the gradient [P] by min(1, max / (norm + 1e-6)), torch's clip_grad_norm_; disposed by
   * the caller. Returns the norm before clipping; when it is not finite nothing was changed.
   */
  async update(gradient: Tensor, learningRate: number): Promise<number> {
    const tf = this.#tf;
    const isMoving = ({ lateSteps }: AdamPart): boolean => this.step >= lateSteps;
    const squares = (part: AdamPart): Tensor => tf.tidy(() => tf.sum(tf.square(this.#cut(gradient, part))));
    const normTensor = tf.tidy(() => tf.sqrt(tf.addN(this.#parts.filter(isMoving).map(squares))));
    const norm = (await normTensor.data())[0]!;
    normTensor.dispose();
    if (!Number.isFinite(norm)) return norm;
    const clip = Math.min(1, this.#options.max_grad_norm / (norm + 1e-6));
    const updated = this.#parts.map((part) =>
      isMoving(part)
        ? this.#updatePart(part, gradient, clip, learningRate)
        : tf.tidy(() => tf.clone(this.#cut(this.#flat, part))),
    );
    this.step++;
    const next = updated.length === 1 ? updated[0]! : tf.concat(updated);
    if (updated.length > 1) tf.dispose(updated);
    this.#flat.assign(next);
    next.dispose();
    return norm;
  }

  #updatePart(part: AdamPart, gradient: Tensor, clip: number, learningRate: number): Tensor {
    const tf = this.#tf;
    const { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: epsilon } = this.#options;
    const t = this.step - part.lateSteps + 1;
    const root = Math.sqrt(1 - beta2 ** t);
    const [m, v, next] = tf.tidy(() => {
      const g = this.#cut(gradient, part);
      const m = tf.add(tf.mul(part.m, beta1), tf.mul(g, (1 - beta1) * clip));
      const v = tf.add(tf.mul(part.v, beta2), tf.mul(tf.square(g), (1 - beta2) * clip * clip));
      // (m / c₁) / (√(v / c₂) + ε) = m · (√c₂ / c₁) / (√v + √c₂ · ε): the corrections are scalars
      const denominator = tf.add(tf.sqrt(v), root * epsilon);
      const rates = tf.mul(part.rates, learningRate);
      const stepRates = tf.mul(rates, root / (1 - beta1 ** t));
      let weights = this.#cut(this.#flat, part);
      if (part.decay !== null) weights = tf.sub(weights, tf.mul(tf.mul(weights, part.decay), rates));
      const step = tf.mul(tf.div(m, denominator), stepRates);
      return [m, v, tf.sub(weights, step)] as [Tensor, Tensor, Tensor];
    });
    tf.dispose([part.m, part.v]);
    part.m = m;
    part.v = v;
    return next;
  }

  #cut(x: Tensor, { begin, size }: AdamPart): Tensor {
    return this.#parts.length === 1 ? x : this.#tf.slice(x, [begin], [size]);
  }

  async state(): Promise<AdamWState> {
    const read = async (which: "m" | "v"): Promise<Float32Array> => {
      const all = new Float32Array(this.#flat.size);
      for (const part of this.#parts) all.set((await part[which].data()) as Float32Array, part.begin);
      return all;
    };
    return { step: this.step, m: await read("m"), v: await read("v") };
  }

  restore(state: AdamWState): void {
    for (const part of this.#parts) {
      this.#tf.dispose([part.m, part.v]);
      const of = (values: Float32Array): Tensor => this.#tf.tensor1d(values.slice(part.begin, part.begin + part.size));
      part.m = of(state.m);
      part.v = of(state.v);
    }
    this.step = state.step;
  }

  dispose(): void {
    for (const { m, v, rates, decay } of this.#parts) {
      this.#tf.dispose([m, v, rates]);
      decay?.dispose();
    }
  }
}

/** A number per element of [begin, begin + size), by parameter; a scalar when all are the same. */
function perElement(
  tf: TF,
  layout: readonly LayoutEntry[],
  begin: number,
  size: number,
  of: (name: string) => number,
): Tensor {
  const inside = layout.filter((entry) => entry.offset < begin + size && entry.offset + entry.size > begin);
  const first = of(inside[0]!.name);
  if (inside.every(({ name }) => of(name) === first)) return tf.scalar(first);
  const values = new Float32Array(size);
  for (const entry of inside)
    values.fill(of(entry.name), Math.max(0, entry.offset - begin), entry.offset + entry.size - begin);
  return tf.tensor1d(values);
}
