/** Causal attention over packed groups (the layout of packing.ts), with a hand-written gradient. */
import type { Tensor, Tensor1D, Tensor2D } from "@tensorflow/tfjs";
import type { TF } from "../backend/backend.js";
import type { AttentionPlan } from "./packing.js";
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
    promptBias: tf.tensor(plan.promptBias, [1, 1, P, P]),
    completionBias: tf.tensor(plan.completionBias, [G, 1, C, P + C]),
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
  readonly #scale: number;

  constructor(tf: TF, t: AttentionTensors, Hq: number, Hk: number, D: number) {
    this.#tf = tf;
    this.#t = t;
    this.#Hq = Hq;
    this.#Hk = Hk;
    this.#E = Hq / Hk;
    this.#D = D;
    this.#scale = 1 / Math.sqrt(D);
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
    const scoresP = (): Tensor => tf.reshape(tf.matMul(qP, kP, false, true), [G, Hk * E, P, P]);
    const probsP = tf.reshape(this.#probabilities(scoresP, t.promptBias), [G * Hk, E * P, P]);
    const oP = tf.matMul(probsP, vP);
    if (C === 0) return { value: this.#back(oP, null, t.queriesBack, width), saved: [qP, kP, vP, probsP, oP] };
    const qC = tf.gather(qRows, t.completionQueries); // [G·Hk, R·E·C, D]
    const kC = tf.gather(kRows, t.completionKeys); // [G·Hk·R, C, D]
    const vC = tf.gather(vRows, t.completionKeys);
    const qOwn = tf.reshape(qC, [G * Hk * R, E * C, D]);
    const scoresC = (): Tensor => this.#joinScores(tf.matMul(qC, kP, false, true), tf.matMul(qOwn, kC, false, true));
    const probsC = this.#probabilities(scoresC, t.completionBias);
    const oC = tf.tidy(() => {
      const [toPrompt, toOwn] = this.#splitScores(probsC);
      return tf.add(tf.matMul(toPrompt, vP), tf.reshape(tf.matMul(toOwn, vC), [G * Hk, R * E * C, D]));
    });
    const value = this.#back(oP, oC, t.queriesBack, width);
    return { value, saved: [qP, kP, vP, probsP, oP, qC, kC, vC, probsC, oC] };
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
    let [dqC, dkC, dvC]: (Tensor | null)[] = [null, null, null];
    if (ofCompletions.length > 0) {
      const parts = this.#completionsBackward(dRows, kP, vP, ofCompletions as [Tensor, Tensor, Tensor, Tensor, Tensor]);
      [dqC, dkC, dvC] = [parts.dq, parts.dk, parts.dv];
      dkP = tf.add(dkP, parts.dkOfPrompt);
      dvP = tf.add(dvP, parts.dvOfPrompt);
    }
    return [
      tf.mul(this.#back(dqP, dqC!, t.queriesBack, this.#Hq * D), this.#scale),
      this.#back(dkP, dkC!, t.keysBack, Hk * D),
      this.#back(dvP, dvC!, t.keysBack, Hk * D),
    ];
  }

  /** Gradients of the completions' rectangles, and their part of the prompts' keys and values. */
  #completionsBackward(
    dRows: Tensor,
    kP: Tensor,
    vP: Tensor,
    [qC, kC, vC, probsC, oC]: [Tensor, Tensor, Tensor, Tensor, Tensor],
  ): Record<"dq" | "dk" | "dv" | "dkOfPrompt" | "dvOfPrompt", Tensor> {
    const [tf, t, Hk, E, D] = [this.#tf, this.#t, this.#Hk, this.#E, this.#D];
    const { groups: G, rowsPerGroup: R, completionLength: C } = t.plan;
    const dOC = tf.mul(tf.gather(dRows, t.completionQueries), t.completionReal);
    const dOwn = tf.reshape(dOC, [G * Hk * R, E * C, D]);
    const dScores = tf.tidy(() => {
      const dProbs = tf.tidy(() => this.#joinScores(tf.matMul(dOC, vP, false, true), tf.matMul(dOwn, vC, false, true)));
      const rowSums = tf.reshape(tf.sum(tf.mul(dOC, oC), 2), [G, Hk * R * E, C, 1]);
      return this.#softmaxGrad(probsC, dProbs, rowSums);
    });
    const qOwn = tf.reshape(qC, [G * Hk * R, E * C, D]);
    const [dq, dkOfPrompt, dk] = tf.tidy((): [Tensor, Tensor, Tensor] => {
      const [dSPrompt, dSOwn] = this.#splitScores(dScores);
      return [
        tf.add(tf.matMul(dSPrompt, kP), tf.reshape(tf.matMul(dSOwn, kC), [G * Hk, R * E * C, D])),
        tf.matMul(dSPrompt, qC, true, false),
        tf.matMul(dSOwn, qOwn, true, false),
      ];
    });
    dScores.dispose();
    const [dvOfPrompt, dv] = tf.tidy((): [Tensor, Tensor] => {
      const [toPrompt, toOwn] = this.#splitScores(probsC);
      return [tf.matMul(toPrompt, dOC, true, false), tf.matMul(toOwn, dOwn, true, false)];
    });
    return { dq, dk, dv, dkOfPrompt, dvOfPrompt };
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

  /** softmax(scores + bias). Scores are the largest arrays: each goes when the next is there. */
  #probabilities(scores: () => Tensor, bias: Tensor): Tensor {
    const tf = this.#tf;
    const raw = tf.tidy(scores);
    const masked = tf.add(raw, bias);
    raw.dispose();
    const probs: Tensor = tf.softmax(masked);
    masked.dispose();
    return probs;
  }

  /** [G, Hk·R·E, C, P + C]: scores of completions against prompt and own keys side by side. */
  #joinScores(prompt: Tensor, own: Tensor): Tensor {
    const { groups: G, rowsPerGroup: R, promptLength: P, completionLength: C } = this.#t.plan;
    const lines = this.#Hk * R * this.#E;
    return this.#tf.concat([this.#tf.reshape(prompt, [G, lines, C, P]), this.#tf.reshape(own, [G, lines, C, C])], 3);
  }

  #splitScores(scores: Tensor): [prompt: Tensor, own: Tensor] {
    const { groups: G, rowsPerGroup: R, promptLength: P, completionLength: C } = this.#t.plan;
    const [prompt, own] = this.#tf.split(scores, [P, C], 3);
    return [
      this.#tf.reshape(prompt!, [G * this.#Hk, R * this.#E * C, P]),
      this.#tf.reshape(own!, [G * this.#Hk * R, this.#E * C, C]),
    ];
  }

  #softmaxGrad(probs: Tensor, dProbs: Tensor, rowSum: Tensor): Tensor {
    return this.#tf.mul(probs, this.#tf.sub(dProbs, rowSum));
  }
}
