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
function decays(name: string): boolean {
  return !name.endsWith(".bias") && !name.includes("norm");
}

/** Parameters that join later than the others: until then neither they nor their moments move. */
export interface LateParameters {
  readonly isLate: (name: string) => boolean;
  /** Steps of the others before the first of these. */
  readonly steps: number;
}

export class AdamW {
  step = 0;
  readonly #tf: TF;
  readonly #flat: Variable;
  readonly #options: AdamWOptions;
  #m: Tensor;
  #v: Tensor;
  /** [P] factor of the learning rate, and of the decay, for each element; a scalar when it is 1 for all. */
  readonly #rates: Tensor;
  readonly #decay: Tensor | null;
  readonly #lateSteps: number;
  /** [P] 1 for late parameters; null when there are none. */
  readonly #late: Tensor | null;

  /**
   * @param flat [P] all trainable parameters, updated in place
   * @param rateOf factor of the learning rate by parameter name (the value head may have its own)
   * @param late parameters that join later (the policy, after the critic's warm-up)
   */
  constructor(
    tf: TF,
    flat: Variable,
    layout: readonly LayoutEntry[],
    options: AdamWOptions,
    rateOf: (name: string) => number = () => 1,
    late: LateParameters | null = null,
  ) {
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
    this.#rates = layout.every(({ name }) => rateOf(name) === 1) ? tf.scalar(1) : perElement(rateOf);
    this.#decay = options.weightDecay > 0 ? perElement((name) => (decays(name) ? options.weightDecay : 0)) : null;
    this.#lateSteps = late?.steps ?? 0;
    this.#late = late === null ? null : perElement((name) => Number(late.isLate(name)));
  }

  /**
   * One update from a flat gradient [P] (disposed by the caller).
   * The gradient is scaled by min(1, max / (norm + 1e-6)) first, torch's clip_grad_norm_.
   * @returns the global norm before clipping (of the parameters that move); when it is not finite nothing was changed
   */
  async update(gradient: Tensor, learningRate: number): Promise<number> {
    const tf = this.#tf;
    /** [P] 1 for the parameters that move, or null for all. */
    const moving = this.#late !== null && this.step < this.#lateSteps ? tf.tidy(() => tf.sub(1, this.#late!)) : null;
    const masked = (x: Tensor): Tensor => (moving === null ? x : tf.mul(x, moving));
    const normTensor = tf.tidy(() => tf.norm(masked(gradient)));
    const norm = (await normTensor.data())[0]!;
    normTensor.dispose();
    if (!Number.isFinite(norm)) {
      moving?.dispose();
      return norm;
    }
    const { beta1, beta2, epsilon, maxGradNorm } = this.#options;
    this.step++;
    const clip = Math.min(1, maxGradNorm / (norm + 1e-6));
    const [m, v, next] = tf.tidy(() => {
      const g = masked(tf.mul(gradient, clip));
      const m = tf.add(tf.mul(this.#m, beta1), tf.mul(g, 1 - beta1));
      const v = tf.add(tf.mul(this.#v, beta2), tf.mul(tf.square(g), 1 - beta2));
      const [correction1, correction2] = [beta1, beta2].map((beta) => this.#perStep((t) => 1 - beta ** t));
      const denominator = tf.add(tf.sqrt(tf.div(v, correction2!)), epsilon);
      const rates = masked(tf.mul(this.#rates, learningRate));
      let weights: Tensor = this.#flat;
      if (this.#decay !== null) weights = tf.sub(weights, tf.mul(tf.mul(weights, this.#decay), rates));
      const step = tf.mul(tf.div(tf.div(m, correction1!), denominator), rates);
      return [m, v, tf.sub(weights, step)] as [Tensor, Tensor, Tensor];
    });
    moving?.dispose();
    tf.dispose([this.#m, this.#v]);
    this.#m = m;
    this.#v = v;
    this.#flat.assign(next);
    next.dispose();
    return norm;
  }

  /** A function of the number of steps a parameter has taken, this one included: late ones count from their own first. */
  #perStep(f: (steps: number) => number): Tensor | number {
    const early = f(this.step);
    if (this.#late === null) return early;
    const late = f(Math.max(1, this.step - this.#lateSteps));
    return this.#tf.add(this.#tf.mul(this.#late, late - early), early);
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
    this.#late?.dispose();
  }
}
