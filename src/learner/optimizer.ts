/**
 * AdamW over one flat parameter vector (Loshchilov & Hutter 2019, algorithm 2; torch.optim.AdamW's form).
 * Knows element ranges and rates; knows no models.
 */
import type { Tensor, Variable } from "@tensorflow/tfjs";
import type { LayoutEntry } from "../model/layout.js";
import type { TF } from "./backend.js";

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

/** Hugging Face decays every weight except biases and norms (`get_decay_parameter_names` in transformers' trainer). */
export function decays(name: string): boolean {
  return !name.endsWith(".bias") && !name.includes("norm");
}

export class AdamW {
  step = 0;
  readonly #tf: TF;
  readonly #flat: Variable;
  readonly #options: AdamWOptions;
  #m: Tensor;
  #v: Tensor;
  /** [P] factor of the learning rate, and of the decay, for each element. */
  readonly #rates: Tensor;
  readonly #decay: Tensor | null;

  /**
   * @param flat [P] all trainable parameters, updated in place
   * @param rateOf factor of the learning rate by parameter name (the value head may have its own)
   */
  constructor(tf: TF, flat: Variable, layout: readonly LayoutEntry[], options: AdamWOptions, rateOf: (name: string) => number = () => 1) {
    this.#tf = tf;
    this.#flat = flat;
    this.#options = options;
    this.#m = tf.zeros(flat.shape);
    this.#v = tf.zeros(flat.shape);
    const perElement = (value: (name: string) => number): Tensor => {
      const values = new Float32Array(flat.size);
      for (const entry of layout) values.fill(value(entry.name), entry.offset, entry.offset + entry.size);
      return tf.tensor(values, flat.shape);
    };
    this.#rates = perElement(rateOf);
    this.#decay = options.weightDecay > 0 ? perElement((name) => (decays(name) ? options.weightDecay : 0)) : null;
  }

  /**
   * One update from a flat gradient [P] (disposed by the caller).
   * The gradient is scaled by min(1, max / (norm + 1e-6)) first, torch's clip_grad_norm_.
   * @returns the global norm before clipping; when it is not finite nothing was changed
   */
  async update(gradient: Tensor, learningRate: number): Promise<number> {
    const tf = this.#tf;
    const normTensor = tf.norm(gradient);
    const norm = (await normTensor.data())[0]!;
    normTensor.dispose();
    if (!Number.isFinite(norm)) return norm;
    const { beta1, beta2, epsilon, maxGradNorm } = this.#options;
    this.step++;
    const clip = Math.min(1, maxGradNorm / (norm + 1e-6));
    const bias1 = 1 - beta1 ** this.step;
    const bias2 = 1 - beta2 ** this.step;
    const [m, v, next] = tf.tidy(() => {
      const g = tf.mul(gradient, clip);
      const m = tf.add(tf.mul(this.#m, beta1), tf.mul(g, 1 - beta1));
      const v = tf.add(tf.mul(this.#v, beta2), tf.mul(tf.square(g), 1 - beta2));
      const denominator = tf.add(tf.mul(tf.sqrt(v), 1 / Math.sqrt(bias2)), epsilon);
      const rates = tf.mul(this.#rates, learningRate);
      let weights: Tensor = this.#flat;
      if (this.#decay !== null) weights = tf.sub(weights, tf.mul(tf.mul(weights, this.#decay), rates));
      return [m, v, tf.sub(weights, tf.mul(tf.div(m, denominator), tf.mul(rates, 1 / bias1)))] as [Tensor, Tensor, Tensor];
    });
    tf.dispose([this.#m, this.#v]);
    this.#m = m;
    this.#v = v;
    this.#flat.assign(next);
    next.dispose();
    return norm;
  }

  async state(): Promise<AdamWState> {
    return { step: this.step, m: (await this.#m.data()) as Float32Array, v: (await this.#v.data()) as Float32Array };
  }

  restore(state: AdamWState): void {
    this.#tf.dispose([this.#m, this.#v]);
    this.#m = this.#tf.tensor(state.m, this.#flat.shape);
    this.#v = this.#tf.tensor(state.v, this.#flat.shape);
    this.step = state.step;
  }

  dispose(): void {
    this.#tf.dispose([this.#m, this.#v, this.#rates]);
    this.#decay?.dispose();
  }
}
