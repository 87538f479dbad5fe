/** Causal attention over packed groups (the layout of packing.ts), with a hand-written gradient. */
import type { Tensor, Tensor1D, Tensor2D } from "@tensorflow/tfjs";
import type { TF } from "../backend/backend.js";
import type { AttentionPlan } from "./packing.js";
import { constant } from "../backend/scalars.js";
import { customGrad } from "./primitives.js";

/** The plan's arrays as tensors, made once per microbatch and shared by all layers. */
export type AttentionTensors = ReturnType<typeof attentionTensors>;

export function attentionTensors(tf: TF, plan: AttentionPlan) {
  const { groups: G, rowsPerGroup: R, promptLength: P, completionLength: C } = plan;
  const keyHeads = plan.promptKeys.length / P; // G·Hk
  const index = (values: Int32Array): Tensor1D => tf.tensor1d(values, "int32");
  const indices = (values: Int32Array, rows: number): Tensor2D =>
    tf.tensor2d(values, [rows, values.length / rows], "int32");
  return {
    plan,
    promptQueries: indices(plan.promptQueries, keyHeads), // [G·Hk, E·P]
    promptKeys: indices(plan.promptKeys, keyHeads), // [G·Hk, P]
    completionQueries: indices(plan.completionQueries, keyHeads), // [G·Hk, R·E·C]
    completionKeys: indices(plan.completionKeys, keyHeads * R), // [G·Hk·R, C]
    queriesBack: index(plan.queriesBack),
    keysBack: index(plan.keysBack),
    promptBias: tf.tensor(plan.promptBias, [1, P, P]),
    paddingBias: plan.paddingBias === null ? null : tf.tensor(plan.paddingBias, [G, 1, P]),
    ownBias: tf.tensor(plan.ownBias, [1, C, C]),
    promptReal: tf.tensor3d(plan.promptReal, [keyHeads, plan.promptReal.length / keyHeads, 1]),
    completionReal: tf.tensor3d(plan.completionReal, [keyHeads, plan.completionReal.length / keyHeads, 1]),
  };
}

/**
 * A completion token sees its prompt (computed once per group) and its own completion.
 * softmax(q kᵀ / √D) v (Vaswani et al. 2017, eq. 1) with grouped-query heads (Ainslie et al. 2023).
 * q and the result are [N, Hq · D], k and v [N, Hk · D] after rotary embedding.
 */
export function attention(tf: TF, q: Tensor, k: Tensor, v: Tensor, t: AttentionTensors, headDim: number): Tensor2D {
  const rectangles = new Rectangles(tf, t, q.shape[1]! / headDim, k.shape[1]! / headDim, headDim);
  return customGrad(tf, [q, k, v], ([q, k, v], save) => {
    const { value, saved } = rectangles.forward(q!, k!, v!);
    save(saved);
    return { value, gradFunc: (dy, saved) => rectangles.backward(dy, saved) };
  }) as Tensor2D;
}

class Rectangles {
  readonly #tf: TF;
  readonly #t: AttentionTensors;
  /** Query heads, key/value heads, query heads per key/value head, head size. */
  readonly #Hq: number;
  readonly #Hk: number;
  readonly #E: number;
  readonly #D: number;
  readonly #scale: Tensor;

  constructor(tf: TF, t: AttentionTensors, Hq: number, Hk: number, D: number) {
    this.#tf = tf;
    this.#t = t;
    this.#Hq = Hq;
    this.#Hk = Hk;
    this.#E = Hq / Hk;
    this.#D = D;
    this.#scale = constant(tf, 1 / Math.sqrt(D));
  }

  /** @returns the output [N, Hq · D] and what the backward pass needs */
  forward(q: Tensor, k: Tensor, v: Tensor): { value: Tensor; saved: Tensor[] } {
    const [tf, t, Hk, E, D] = [this.#tf, this.#t, this.#Hk, this.#E, this.#D];
    const { groups: G, rowsPerGroup: R, promptLength: P, completionLength: C } = t.plan;
    const width = this.#Hq * D;
    const [qRows, kRows, vRows] = [this.#byHead(tf.mul(q, this.#scale)), this.#byHead(k), this.#byHead(v)];
    const qP = tf.gather(qRows, t.promptQueries); // [G·Hk, E·P, D]
    const kP = tf.gather(kRows, t.promptKeys); // [G·Hk, P, D]
    const vP = tf.gather(vRows, t.promptKeys);
    const probsP = tf.tidy(() => {
      const scores = this.#masked(tf.matMul(qP, kP, false, true), t.promptBias, [G * Hk * E, P, P]);
      return tf.reshape(tf.softmax(scores), [G * Hk, E * P, P]);
    });
    const oP = tf.matMul(probsP, vP);
    if (C === 0) return { value: this.#back(oP, null, t.queriesBack, width), saved: [qP, kP, vP, probsP, oP] };
    const qC = tf.gather(qRows, t.completionQueries); // [G·Hk, R·E·C, D]
    const kC = tf.gather(kRows, t.completionKeys); // [G·Hk·R, C, D]
    const vC = tf.gather(vRows, t.completionKeys);
    const [toPrompt, toOwn, perSum] = tf.tidy(() => {
      const prompt = this.#masked(tf.matMul(qC, kP, false, true), t.paddingBias, [G, Hk * R * E * C, P]);
      const own = this.#masked(tf.matMul(this.#own(qC), kC, false, true), t.ownBias, [G * Hk * R * E, C, C]);
      return this.#exponentials(tf.reshape(prompt, [G * Hk, R * E * C, P]), tf.reshape(own, [G * Hk * R, E * C, C]));
    });
    const oC = tf.tidy(() => tf.mul(tf.add(tf.matMul(toPrompt, vP), this.#shared(tf.matMul(toOwn, vC))), perSum));
    const value = this.#back(oP, oC, t.queriesBack, width);
    return { value, saved: [qP, kP, vP, probsP, oP, qC, kC, vC, toPrompt, toOwn, perSum, oC] };
  }

  /** Uses Σ dP·P = Σ dO·O (Dao et al. 2022, appendix B.2). @returns gradients of q, k and v */
  backward(dy: Tensor, saved: Tensor[]): Tensor[] {
    const [tf, t, Hk, D] = [this.#tf, this.#t, this.#Hk, this.#D];
    const [qP, kP, vP, probsP, oP, ...ofCompletions] = saved as [Tensor, Tensor, Tensor, Tensor, Tensor, ...Tensor[]];
    const dRows = this.#byHead(dy);
    // A padded query is not real: its dO is set to zero.
    const dOP = tf.mul(tf.gather(dRows, t.promptQueries), t.promptReal);
    const dSP = this.#softmaxGrad(probsP, tf.matMul(dOP, vP, false, true), tf.sum(tf.mul(dOP, oP), 2, true));
    const dqP = tf.matMul(dSP, kP);
    let dkP: Tensor = tf.matMul(dSP, qP, true, false);
    let dvP: Tensor = tf.matMul(probsP, dOP, true, false);
    let [dqC, dkC, dvC]: [Tensor, Tensor, Tensor] | [null, null, null] = [null, null, null];
    if (ofCompletions.length > 0) {
      const parts = this.#completionsBackward(dRows, kP, vP, ofCompletions);
      [dqC, dkC, dvC] = [parts.dq, parts.dk, parts.dv];
      dkP = tf.add(dkP, parts.dkOfPrompt);
      dvP = tf.add(dvP, parts.dvOfPrompt);
    }
    return [
      tf.mul(this.#back(dqP, dqC, t.queriesBack, this.#Hq * D), this.#scale),
      this.#back(dkP, dkC, t.keysBack, Hk * D),
      this.#back(dvP, dvC, t.keysBack, Hk * D),
    ];
  }

  /** Gradients of the completions' rectangles, and their part of the prompts' keys and values. */
  #completionsBackward(
    dRows: Tensor,
    kP: Tensor,
    vP: Tensor,
    ofCompletions: Tensor[],
  ): Record<"dq" | "dk" | "dv" | "dkOfPrompt" | "dvOfPrompt", Tensor> {
    const [tf, t] = [this.#tf, this.#t];
    const [qC, kC, vC, toPrompt, toOwn, perSum, oC] = ofCompletions as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    // Divided by the sums here, where it is small: probabilities are exp(scores) / sum.
    const dO = tf.tidy(() => tf.mul(tf.mul(tf.gather(dRows, t.completionQueries), t.completionReal), perSum));
    const rowSum = tf.tidy(() => tf.sum(tf.mul(dO, oC), 2, true));
    const [dOwn, qOwn] = [this.#own(dO), this.#own(qC)];
    const [dqOfPrompt, dkOfPrompt] = tf.tidy((): [Tensor, Tensor] => {
      const dScores = this.#softmaxGrad(toPrompt, tf.matMul(dO, vP, false, true), rowSum);
      return [tf.matMul(dScores, kP), tf.matMul(dScores, qC, true, false)];
    });
    const [dqOfOwn, dk] = tf.tidy((): [Tensor, Tensor] => {
      const dScores = this.#softmaxGrad(toOwn, tf.matMul(dOwn, vC, false, true), this.#own(rowSum));
      return [tf.matMul(dScores, kC), tf.matMul(dScores, qOwn, true, false)];
    });
    return {
      dq: tf.add(dqOfPrompt, this.#shared(dqOfOwn)),
      dk,
      dkOfPrompt,
      dv: tf.matMul(toOwn, dOwn, true, false),
      dvOfPrompt: tf.matMul(toPrompt, dO, true, false),
    };
  }

  /** Completion rows [.., x] beside the keys of their prompt: [G·Hk, R·E·C, x]. */
  #shared(x: Tensor): Tensor {
    const { groups: G, rowsPerGroup: R, completionLength: C } = this.#t.plan;
    return this.#tf.reshape(x, [G * this.#Hk, R * this.#E * C, -1]);
  }

  /** The same rows beside their own keys: [G·Hk·R, E·C, x]. */
  #own(x: Tensor): Tensor {
    const { groups: G, rowsPerGroup: R, completionLength: C } = this.#t.plan;
    return this.#tf.reshape(x, [G * this.#Hk * R, this.#E * C, -1]);
  }

  #byHead(x: Tensor): Tensor {
    return this.#tf.reshape(x, [-1, this.#D]);
  }

  /** Brings rectangles back into the order of packed tokens: [N, width]. */
  #back(prompt: Tensor, completion: Tensor | null, index: Tensor1D, width: number): Tensor {
    const flat = this.#byHead(prompt);
    const all = completion === null ? flat : this.#tf.concat([flat, this.#byHead(completion)], 0);
    return this.#tf.reshape(this.#tf.gather(all, index), [-1, width]);
  }

  /**
   * scores + bias, in the shape in which the bias fits. Scores are the largest arrays: each goes
   * when the next is there.
   */
  #masked(scores: Tensor, bias: Tensor | null, shape: number[]): Tensor {
    const shaped = this.#tf.reshape(scores, shape);
    scores.dispose();
    if (bias === null) return shaped;
    const masked: Tensor = this.#tf.add(shaped, bias);
    shaped.dispose();
    return masked;
  }

  /**
   * exp(scores − the row's largest) against prompt and own keys, and 1 / the row's sum of both.
   * They lie apart and undivided, because every further pass over them costs as much as a product.
   */
  #exponentials(prompt: Tensor, own: Tensor): [toPrompt: Tensor, toOwn: Tensor, perSum: Tensor] {
    const tf = this.#tf;
    const over = (reduce: (x: Tensor) => Tensor, combine: (a: Tensor, b: Tensor) => Tensor, a: Tensor, b: Tensor) =>
      tf.tidy(() => combine(this.#shared(reduce(a)), this.#shared(reduce(b))));
    const largest = over((x) => tf.max(x, 2, true), tf.maximum, prompt, own);
    const exp = (scores: Tensor, largest: Tensor): Tensor => {
      const shifted: Tensor = tf.sub(scores, largest);
      scores.dispose();
      const result: Tensor = tf.exp(shifted);
      shifted.dispose();
      return result;
    };
    const [toPrompt, toOwn] = [exp(prompt, largest), exp(own, this.#own(largest))];
    const sums = over((x) => tf.sum(x, 2, true), tf.add, toPrompt, toOwn);
    return [toPrompt, toOwn, tf.div(constant(tf, 1), sums)];
  }

  #softmaxGrad(probs: Tensor, dProbs: Tensor, rowSum: Tensor): Tensor {
    return this.#tf.mul(probs, this.#tf.sub(dProbs, rowSum));
  }
}
