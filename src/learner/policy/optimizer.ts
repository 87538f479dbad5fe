/**
 * AdamW over one flat parameter vector (Loshchilov & Hutter 2019, algorithm 2; torch.optim.AdamW's
 * form). Knows element ranges and rates; knows no models.
 */
import type { Tensor, Variable } from "@tensorflow/tfjs";
import type { LayoutEntry } from "../../model/layout.js";
import type { TF } from "../backend/backend.js";

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Decoupled decay; not applied to norms and biases (Hugging Face's rule). */
  readonly weightDecay: number;
  /** Largest global gradient norm. */
  readonly maxGradNorm: number;
}

export interface AdamWState {
  readonly step: number;
  readonly m: Float32Array;
  readonly v: Float32Array;
}

/**
 * Hugging Face decays every weight except biases and norms (`get_decay_parameter_names` in
 * transformers' trainer).
 */
function decays(name: string): boolean {
  return !name.endsWith(".bias") && !name.includes("norm");
}

/** Parameters that join later than the others: until then neither they nor their moments move. */
export interface LateParameters {
  readonly isLate: (name: string) => boolean;
  /** Steps of the others before the first of these. */
  readonly steps: number;
}

/**
 * Elements updated at once. A step's temporaries are about twenty arrays of this size, whatever the
 * size of the model.
 */
const PART_SIZE = 4 * 1024 * 1024;

/** A stretch of the flat vector with its moments. */
interface Part {
  readonly begin: number;
  readonly size: number;
  m: Tensor;
  v: Tensor;
  /**
   * Factor of the learning rate for each element; a scalar where it is one for the whole part. So
   * are the next two.
   */
  readonly rates: Tensor;
  /** Null without decay. */
  readonly decay: Tensor | null;
  /** 1 for late parameters; null when there are none. */
  readonly late: Tensor | null;
}

export class AdamW {
  step = 0;
  readonly #tf: TF;
  readonly #flat: Variable;
  readonly #options: AdamWOptions;
  readonly #parts: Part[] = [];
  readonly #lateSteps: number;

  /**
   * @param flat [P] all trainable parameters, updated in place
   * @param rateOf factor of the learning rate by parameter name (the value head may have its own)
   * @param late parameters that join later (the policy, after the critic's warm-up)
   * @param partSize elements updated at once
   */
  constructor(
    tf: TF,
    flat: Variable,
    layout: readonly LayoutEntry[],
    options: AdamWOptions,
    rateOf: (name: string) => number = () => 1,
    late: LateParameters | null = null,
    partSize = PART_SIZE,
  ) {
    this.#tf = tf;
    this.#flat = flat;
    this.#options = options;
    this.#lateSteps = late?.steps ?? 0;
    const decayOf = (name: string): number => (decays(name) ? options.weightDecay : 0);
    for (let begin = 0; begin < flat.size; begin += partSize) {
      const size = Math.min(partSize, flat.size - begin);
      const factor = (of: (name: string) => number): Tensor => perElement(tf, layout, begin, size, of);
      this.#parts.push({
        begin,
        size,
        m: tf.zeros([size]),
        v: tf.zeros([size]),
        rates: factor(rateOf),
        decay: options.weightDecay > 0 ? factor(decayOf) : null,
        late: late === null ? null : factor((name) => Number(late.isLate(name))),
      });
    }
  }

  /**
   * One update from a flat gradient [P] (disposed by the caller).
   * The gradient is scaled by min(1, max / (norm + 1e-6)) first, torch's clip_grad_norm_.
   * @returns the global norm before clipping (of the parameters that move); when it is not finite
   *   nothing was changed
   */
  async update(gradient: Tensor, learningRate: number): Promise<number> {
    const tf = this.#tf;
    const waiting = this.step < this.#lateSteps;
    /** Without the elements of late parameters that wait. */
    const masked = (x: Tensor, { late }: Part): Tensor => (waiting && late !== null ? tf.mul(x, tf.sub(1, late)) : x);
    const normTensor = tf.tidy(() =>
      tf.sqrt(
        tf.addN(this.#parts.map((part) => tf.tidy(() => tf.sum(tf.square(masked(this.#cut(gradient, part), part)))))),
      ),
    );
    const norm = (await normTensor.data())[0]!;
    normTensor.dispose();
    if (!Number.isFinite(norm)) return norm;
    const { beta1, beta2, epsilon, maxGradNorm } = this.#options;
    this.step++;
    const clip = Math.min(1, maxGradNorm / (norm + 1e-6));
    const updated = this.#parts.map((part) => {
      const [m, v, next] = tf.tidy(() => {
        const g = masked(this.#cut(gradient, part), part);
        const m = tf.add(tf.mul(part.m, beta1), tf.mul(g, (1 - beta1) * clip));
        const v = tf.add(tf.mul(part.v, beta2), tf.mul(tf.square(g), (1 - beta2) * clip * clip));
        // (m / c₁) / (√(v / c₂) + ε) = m · (√c₂ / c₁) / (√v + √c₂ · ε): corrections c of scalars,
        // where the part has one step count, and not of whole arrays.
        const root = (t: number): number => Math.sqrt(1 - beta2 ** t);
        const denominator = tf.add(
          tf.sqrt(v),
          this.#perStep(part, (t) => root(t) * epsilon),
        );
        const rates = masked(tf.mul(part.rates, learningRate), part);
        const stepRates = tf.mul(
          rates,
          this.#perStep(part, (t) => root(t) / (1 - beta1 ** t)),
        );
        let weights = this.#cut(this.#flat, part);
        if (part.decay !== null) weights = tf.sub(weights, tf.mul(tf.mul(weights, part.decay), rates));
        const step = tf.mul(tf.div(m, denominator), stepRates);
        return [m, v, tf.sub(weights, step)] as [Tensor, Tensor, Tensor];
      });
      tf.dispose([part.m, part.v]);
      part.m = m;
      part.v = v;
      return next;
    });
    const next = updated.length === 1 ? updated[0]! : tf.concat(updated);
    if (updated.length > 1) tf.dispose(updated);
    this.#flat.assign(next);
    next.dispose();
    return norm;
  }

  #cut(x: Tensor, { begin, size }: Part): Tensor {
    return this.#parts.length === 1 ? x : this.#tf.slice(x, [begin], [size]);
  }

  /**
   * A function of the number of steps a parameter has taken, this one included: late ones count
   * from their own first.
   */
  #perStep({ late }: Part, f: (steps: number) => number): Tensor | number {
    const early = f(this.step);
    if (late === null) return early;
    const lateValue = f(Math.max(1, this.step - this.#lateSteps));
    return this.#tf.add(this.#tf.mul(late, lateValue - early), early);
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
    for (const { m, v, rates, decay, late } of this.#parts) {
      this.#tf.dispose([m, v, rates]);
      decay?.dispose();
      late?.dispose();
    }
  }
}

/**
 * A number per element of [begin, begin + size), given by its parameter's name; a scalar when all
 * are the same.
 */
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
