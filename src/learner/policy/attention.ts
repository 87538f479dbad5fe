/**
 * Causal attention over packed groups, with a hand-written gradient.
 * Knows the layout of packing.ts; knows no weights.
 */
import type { Tensor, Tensor1D, Tensor2D } from "@tensorflow/tfjs";
import type { TF } from "../backend/backend.js";
import type { AttentionPlan } from "./packing.js";
import { customGrad } from "./primitives.js";

/**
 * The plan's index arrays and masks as tensors, made once per microbatch and shared by all layers.
 */
export interface AttentionTensors {
  readonly plan: AttentionPlan;
  /** [G·Hk, E·P] */
  readonly promptQueries: Tensor2D;
  /** [G·Hk, P] */
  readonly promptKeys: Tensor2D;
  /** [G·Hk, R·E·C] */
  readonly completionQueries: Tensor2D;
  /** [G·Hk·R, C] */
  readonly completionKeys: Tensor2D;
  readonly queriesBack: Tensor1D;
  readonly keysBack: Tensor1D;
  readonly promptBias: Tensor;
  readonly completionBias: Tensor;
  readonly promptReal: Tensor;
  readonly completionReal: Tensor;
}

export function attentionTensors(tf: TF, plan: AttentionPlan): AttentionTensors {
  const { groups: G, rowsPerGroup: R, promptLength: P, completionLength: C } = plan;
  const keyHeads = plan.promptKeys.length / P; // G·Hk
  const index = (values: Int32Array): Tensor1D => tf.tensor1d(values, "int32");
  const indices = (values: Int32Array, rows: number): Tensor2D =>
    tf.tensor2d(values, [rows, values.length / rows], "int32");
  return {
    plan,
    promptQueries: indices(plan.promptQueries, keyHeads),
    promptKeys: indices(plan.promptKeys, keyHeads),
    completionQueries: indices(plan.completionQueries, keyHeads),
    completionKeys: indices(plan.completionKeys, keyHeads * R),
    queriesBack: index(plan.queriesBack),
    keysBack: index(plan.keysBack),
    promptBias: tf.tensor(plan.promptBias, [1, 1, P, P]),
    completionBias: tf.tensor(plan.completionBias, [G, 1, C, P + C]),
    promptReal: tf.tensor3d(plan.promptReal, [keyHeads, plan.promptReal.length / keyHeads, 1]),
    completionReal: tf.tensor3d(plan.completionReal, [keyHeads, plan.completionReal.length / keyHeads, 1]),
  };
}

/**
 * Causal attention over packed groups: a completion token sees its prompt (computed once per group)
 * and its own row. softmax(q kᵀ / √D) v (Vaswani et al. 2017, eq. 1), grouped-query heads (Ainslie
 * et al. 2023). The backward pass uses Σ dP·P = Σ dO·O (Dao et al. 2022, appendix B.2).
 * @param q [N, Hq · D] after rotary embedding
 * @param k [N, Hk · D] after rotary embedding
 * @param v [N, Hk · D]
 * @returns [N, Hq · D]
 */
export function attention(tf: TF, q: Tensor, k: Tensor, v: Tensor, t: AttentionTensors, headDim: number): Tensor2D {
  const { groups: G, rowsPerGroup: R, promptLength: P, completionLength: C } = t.plan;
  const D = headDim;
  const Hq = q.shape[1]! / D;
  const Hk = k.shape[1]! / D;
  const E = Hq / Hk;
  const scale = 1 / Math.sqrt(D);
  const byHead = (x: Tensor): Tensor => tf.reshape(x, [-1, D]);
  const back = (prompt: Tensor, completion: Tensor | null, index: Tensor1D, width: number): Tensor => {
    const flat = tf.reshape(prompt, [-1, D]);
    const all = completion === null ? flat : tf.concat([flat, tf.reshape(completion, [-1, D])], 0);
    return tf.reshape(tf.gather(all, index), [-1, width]);
  };
  const dot = tf.matMul;
  /**
   * softmax(scores + bias). Arrays of scores are the largest here, so each goes as soon as the next
   * is made.
   */
  const probabilities = (scores: () => Tensor, bias: Tensor): Tensor => {
    const raw = tf.tidy(scores);
    const masked = tf.add(raw, bias);
    raw.dispose();
    const probs: Tensor = tf.softmax(masked);
    masked.dispose();
    return probs;
  };
  // [G, Hk·R·E, C, P + C]: scores of completions against prompt and own keys side by side.
  const joinScores = (prompt: Tensor, own: Tensor): Tensor =>
    tf.concat([tf.reshape(prompt, [G, Hk * R * E, C, P]), tf.reshape(own, [G, Hk * R * E, C, C])], 3);
  const splitScores = (scores: Tensor): [Tensor, Tensor] => {
    const [prompt, own] = tf.split(scores, [P, C], 3);
    return [tf.reshape(prompt!, [G * Hk, R * E * C, P]), tf.reshape(own!, [G * Hk * R, E * C, C])];
  };

  return customGrad(tf, [q, k, v], ([q, k, v], save) => {
    const [qRows, kRows, vRows] = [byHead(tf.mul(q!, scale)), byHead(k!), byHead(v!)];
    const qP = tf.gather(qRows, t.promptQueries); // [G·Hk, E·P, D]
    const kP = tf.gather(kRows, t.promptKeys); // [G·Hk, P, D]
    const vP = tf.gather(vRows, t.promptKeys);
    const scoresP = (): Tensor => tf.reshape(dot(qP, kP, false, true), [G, Hk * E, P, P]);
    const probsP = tf.reshape(probabilities(scoresP, t.promptBias), [G * Hk, E * P, P]);
    const oP = dot(probsP, vP);
    if (C === 0) {
      save([qP, kP, vP, probsP, oP]);
    } else {
      const qC = tf.gather(qRows, t.completionQueries); // [G·Hk, R·E·C, D]
      const kC = tf.gather(kRows, t.completionKeys); // [G·Hk·R, C, D]
      const vC = tf.gather(vRows, t.completionKeys);
      const scoresC = (): Tensor =>
        joinScores(dot(qC, kP, false, true), dot(tf.reshape(qC, [G * Hk * R, E * C, D]), kC, false, true));
      const probsC = probabilities(scoresC, t.completionBias);
      const oC = tf.tidy(() => {
        const [toPrompt, toOwn] = splitScores(probsC);
        return tf.add(dot(toPrompt, vP), tf.reshape(dot(toOwn, vC), [G * Hk, R * E * C, D]));
      });
      save([qP, kP, vP, probsP, oP, qC, kC, vC, probsC, oC]);
      return { value: back(oP, oC, t.queriesBack, Hq * D), gradFunc };
    }
    return { value: back(oP, null, t.queriesBack, Hq * D), gradFunc };

    function gradFunc(dy: Tensor, saved: Tensor[]): Tensor[] {
      const [qP, kP, vP, probsP, oP, qC, kC, vC, probsC, oC] = saved as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
        Tensor,
        ...Tensor[],
      ];
      // Padded queries must not speak: their dO is set to zero.
      const dRows = byHead(dy);
      const dOP = tf.mul(tf.gather(dRows, t.promptQueries), t.promptReal);
      const dSP = softmaxGrad(probsP, dot(dOP, vP, false, true), tf.sum(tf.mul(dOP, oP), 2, true));
      const dqP = dot(dSP, kP);
      let dkP: Tensor = dot(dSP, qP, true, false);
      let dvP: Tensor = dot(probsP, dOP, true, false);
      let dqC: Tensor | null = null;
      let dkC: Tensor | null = null;
      let dvC: Tensor | null = null;
      if (qC !== undefined && kC !== undefined && vC !== undefined && probsC !== undefined && oC !== undefined) {
        const dOC = tf.mul(tf.gather(dRows, t.completionQueries), t.completionReal);
        const dOwn = tf.reshape(dOC, [G * Hk * R, E * C, D]);
        const dScores = tf.tidy(() => {
          const dProbs = tf.tidy(() => joinScores(dot(dOC, vP, false, true), dot(dOwn, vC, false, true)));
          return softmaxGrad(probsC, dProbs, tf.reshape(tf.sum(tf.mul(dOC, oC), 2), [G, Hk * R * E, C, 1]));
        });
        const qOwn = tf.reshape(qC, [G * Hk * R, E * C, D]);
        [dqC, dkP, dkC] = tf.tidy((): [Tensor, Tensor, Tensor] => {
          const [dSPrompt, dSOwn] = splitScores(dScores);
          return [
            tf.add(dot(dSPrompt, kP), tf.reshape(dot(dSOwn, kC), [G * Hk, R * E * C, D])),
            tf.add(dkP, dot(dSPrompt, qC, true, false)),
            dot(dSOwn, qOwn, true, false),
          ];
        });
        dScores.dispose();
        [dvP, dvC] = tf.tidy((): [Tensor, Tensor] => {
          const [toPrompt, toOwn] = splitScores(probsC);
          return [tf.add(dvP, dot(toPrompt, dOC, true, false)), dot(toOwn, dOwn, true, false)];
        });
      }
      return [
        tf.mul(back(dqP, dqC, t.queriesBack, Hq * D), scale),
        back(dkP, dkC, t.keysBack, Hk * D),
        back(dvP, dvC, t.keysBack, Hk * D),
      ];
    }
  }) as Tensor2D;

  function softmaxGrad(probs: Tensor, dProbs: Tensor, rowSum: Tensor): Tensor {
    return tf.mul(probs, tf.sub(dProbs, rowSum));
  }
}
