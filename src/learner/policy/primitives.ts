/**
 * The few operations where the learner spends its time, with hand-written gradients
 * (`tf.customGrad`): RMSNorm, rotary embedding, attention over packed groups, SwiGLU, token
 * log-probabilities. Each is tested against its plain twin (test/support/primitives-plain.ts),
 * value and gradients, on TensorFlow and wasm.
 *
 * Knows shapes and formulas; knows no weight names and no losses.
 */
import type { Tensor, Tensor1D, Tensor2D } from "@tensorflow/tfjs";
import type { TF } from "../backend/backend.js";
import type { AttentionPlan } from "./packing.js";

type Save = (tensors: Tensor[]) => void;

/**
 * tfjs passes the saver after the inputs; its own type cannot say so. It tidies the forward
 * function but not the gradient's, whose temporaries would live until the whole backward pass is
 * over: hence the tidy here. It would also keep what was saved and the incoming gradient until
 * then, though a value's gradient is complete when its operation's turn comes and nothing looks at
 * it again; they go as soon as they are used. So `gradFunc` must not hand on either of them as they
 * are (`tf.clone` shares the data).
 */
export function customGrad(
  tf: TF,
  inputs: Tensor[],
  f: (inputs: Tensor[], save: Save) => { value: Tensor; gradFunc: (dy: Tensor, saved: Tensor[]) => Tensor[] },
): Tensor {
  const op = tf.customGrad((...args: unknown[]) => {
    const save = args.at(-1) as Save;
    const { value, gradFunc } = f(args.slice(0, -1) as Tensor[], save);
    return {
      value,
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const gradients = tf.tidy(() => gradFunc(dy, saved));
        tf.dispose([dy, ...saved]);
        return gradients;
      },
    };
  });
  return op(...inputs);
}

/** The gradient so far plus one more part of it; both are disposed where a new tensor is made. */
export function addGradient(tf: TF, soFar: Tensor | null, part: Tensor): Tensor {
  if (soFar === null) return part;
  const sum: Tensor = tf.add(soFar, part);
  tf.dispose([soFar, part]);
  return sum;
}

/**
 * a + b, of equal shapes, or with b [out] added to every row of a [N, out]. tf.add keeps both
 * inputs for its gradient, which needs neither: with adapters that would be most of a block's
 * memory.
 */
export function plus(tf: TF, a: Tensor, b: Tensor): Tensor2D {
  const isBias = b.rank < a.rank;
  return customGrad(tf, [a, b], ([a, b]) => ({
    value: tf.add(a!, b!),
    gradFunc: (dy) => [tf.clone(dy), isBias ? tf.sum(dy, 0) : tf.clone(dy)],
  })) as Tensor2D;
}

/**
 * x · Wᵀ.
 * @param x [N, in]
 * @param weight [out, in]
 * @param frozen the weight has no gradient, and must outlive the gradient of x
 */
export function product(tf: TF, x: Tensor, weight: Tensor, frozen = false): Tensor2D {
  return customGrad(tf, frozen ? [x] : [x, weight], (inputs, save) => {
    if (!frozen) save(inputs);
    return {
      value: tf.matMul(inputs[0] as Tensor2D, weight as Tensor2D, false, true),
      gradFunc: (dy, saved) => {
        const [x, savedWeight = weight] = saved as [Tensor?, Tensor?];
        const dx = tf.matMul(dy as Tensor2D, savedWeight as Tensor2D);
        return x === undefined ? [dx] : [dx, tf.matMul(dy as Tensor2D, x as Tensor2D, true, false)];
      },
    };
  }) as Tensor2D;
}

/**
 * RMSNorm: y = x · rsqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019, eq. 4).
 * @param x [N, H]
 * @param weight [H]
 */
export function rmsNorm(tf: TF, x: Tensor, weight: Tensor, eps: number): Tensor2D {
  // tf.mean would first copy what it is given, in a cast from float32 to float32.
  const meanOfRows = (x: Tensor): Tensor => tf.tidy(() => tf.mul(tf.sum(x, 1, true), 1 / x.shape[1]!));
  return customGrad(tf, [x, weight], ([x, weight], save) => {
    const r = tf.rsqrt(tf.add(meanOfRows(tf.square(x!)), eps));
    const normed = tf.mul(x!, r);
    save([normed, r, weight!]);
    return {
      value: tf.mul(normed, weight!),
      gradFunc: (dy, saved) => {
        const [normed, r, weight] = saved as [Tensor, Tensor, Tensor];
        const dWeight: Tensor = tf.tidy(() => tf.sum(tf.mul(dy, normed), 0));
        const dNormed = tf.mul(dy, weight);
        const projected = tf.tidy(() => meanOfRows(tf.mul(dNormed, normed)));
        const along = tf.tidy(() => tf.sub(dNormed, tf.mul(normed, projected)));
        dNormed.dispose();
        return [tf.mul(along, r), dWeight];
      },
    };
  }) as Tensor2D;
}

export interface RotaryTables {
  /** [N, 1, D] */
  readonly cos: Tensor;
  readonly sin: Tensor;
  /** [D, D]: x · rotate is (-x₂, x₁), the halves of x exchanged. */
  readonly rotate: Tensor2D;
}

/**
 * Rotary tables for packed positions: angle of dimension i (of D/2) at position p is p ·
 * theta^(-2i/D) (Su et al. 2021, eq. 15; halves layout as in Hugging Face's `rotate_half`).
 */
export function rotaryTables(tf: TF, positions: Int32Array, headDim: number, theta: number): RotaryTables {
  const half = headDim / 2;
  const cos = new Float32Array(positions.length * headDim);
  const sin = new Float32Array(positions.length * headDim);
  // As in transformers: inverse frequencies and angles are rounded to float32.
  const inverse = Float32Array.from({ length: half }, (_, i) => 1 / theta ** ((2 * i) / headDim));
  for (let n = 0; n < positions.length; n++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(positions[n]! * inverse[i]!);
      cos[n * headDim + i] = cos[n * headDim + half + i] = Math.cos(angle);
      sin[n * headDim + i] = sin[n * headDim + half + i] = Math.sin(angle);
    }
  }
  const rotate = new Float32Array(headDim * headDim);
  for (let i = 0; i < half; i++) {
    rotate[(half + i) * headDim + i] = -1;
    rotate[i * headDim + half + i] = 1;
  }
  return {
    cos: tf.tensor3d(cos, [positions.length, 1, headDim]),
    sin: tf.tensor3d(sin, [positions.length, 1, headDim]),
    rotate: tf.tensor2d(rotate, [headDim, headDim]),
  };
}

/**
 * Rotates every head: y = x · cos + (x · rotate) · sin.
 * @param x [N, heads · D]
 */
export function rotary(tf: TF, x: Tensor, tables: RotaryTables): Tensor2D {
  const headDim = tables.rotate.shape[0];
  const shape = x.shape as [number, number];
  const heads = shape[1] / headDim;
  return customGrad(tf, [x], ([x]) => {
    const flat = tf.reshape(x!, [-1, headDim]) as Tensor2D;
    const rotated = tf.reshape(tf.matMul(flat, tables.rotate), [-1, heads, headDim]);
    const y = tf.add(tf.mul(tf.reshape(x!, [-1, heads, headDim]), tables.cos), tf.mul(rotated, tables.sin));
    return {
      value: tf.reshape(y, shape),
      gradFunc: (dy) => {
        const dy3 = tf.reshape(dy, [-1, heads, headDim]);
        const turned = tf.reshape(tf.mul(dy3, tables.sin), [-1, headDim]) as Tensor2D;
        const back = tf.reshape(tf.matMul(turned, tables.rotate, false, true), [-1, heads, headDim]);
        return [tf.reshape(tf.add(tf.mul(dy3, tables.cos), back), shape)];
      },
    };
  }) as Tensor2D;
}

/** SwiGLU: silu(gate) · up (Shazeer 2020, eq. 6). Both [N, I]. */
export function swiGlu(tf: TF, gate: Tensor, up: Tensor): Tensor2D {
  return customGrad(tf, [gate, up], ([gate, up], save) => {
    const s = tf.sigmoid(gate!);
    const silu = tf.mul(gate!, s);
    save([s, silu, up!]);
    return {
      value: tf.mul(silu, up!),
      gradFunc: (dy, saved) => {
        const [s, silu, up] = saved as [Tensor, Tensor, Tensor];
        // silu' = s + silu · (1 - s)
        const slope: Tensor = tf.tidy(() => tf.add(s, tf.sub(silu, tf.mul(silu, s))));
        return [tf.tidy(() => tf.mul(tf.mul(dy, up), slope)), tf.mul(dy, silu)];
      },
    };
  }) as Tensor2D;
}

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

/**
 * Logits of one chunk in `tokenLogprobs`, in elements (64 MiB as float32). Two arrays of the size
 * exist at once, three in the gradient of a trained head or of entropies. More where the head is
 * trained: each chunk then has a gradient as large as the head, to be added to the others'.
 */
const MAX_LOGITS = { frozenHead: 16 * 1024 * 1024, trainedHead: 64 * 1024 * 1024 };

/**
 * Log-probability of each target under softmax(h · headᵀ / temperature), and the entropy of that
 * distribution. Works in chunks of rows so that [M, V] never exists when it would be large; the
 * backward pass recomputes each chunk. H = logsumexp(z) - Σ p·z with z = logits / temperature.
 * @param h [M, hidden] states that predict the targets
 * @param head [V, hidden]
 * @param targets [M]
 * @param options.entropyGradient whether the entropy column carries a gradient (entropy bonus);
 *   default no
 * @param options.frozenHead the head has no gradient (LoRA), and must outlive the gradient of h;
 *   default no
 * @param options.maxLogits logits held at once, in elements
 * @returns [M, 2]: log-probabilities (nats), entropies (nats)
 */
export function tokenLogprobs(
  tf: TF,
  h: Tensor,
  head: Tensor,
  targets: Int32Array,
  temperature: number,
  options: { readonly entropyGradient?: boolean; readonly frozenHead?: boolean; readonly maxLogits?: number } = {},
): Tensor2D {
  const { entropyGradient = false, frozenHead = false } = options;
  const maxLogits = options.maxLogits ?? MAX_LOGITS[frozenHead ? "frozenHead" : "trainedHead"];
  const V = head.shape[0]!;
  const M = targets.length;
  const chunk = Math.max(1, Math.min(M, Math.floor(maxLogits / V)));
  const starts = Array.from({ length: Math.ceil(M / chunk) }, (_, i) => i * chunk);

  /**
   * Of one chunk: logits less their largest [rows, V], the exponentials of these and their sums
   * [rows, 1]. Two arrays of the chunk's size exist at once.
   */
  const distribution = (h: Tensor, head: Tensor): { z: Tensor; exp: Tensor; sum: Tensor } => {
    const logits = tf.matMul(tf.mul(h, 1 / temperature) as Tensor2D, head as Tensor2D, false, true);
    const z: Tensor = tf.sub(logits, tf.max(logits, 1, true));
    logits.dispose();
    const exp: Tensor = tf.exp(z);
    return { z, exp, sum: tf.sum(exp, 1, true) };
  };
  const idsOf = (start: number): Int32Array => targets.subarray(start, Math.min(start + chunk, M));
  /**
   * d (Σ log-probabilities · dy) / dh of one chunk: dy/T · (head[target] − p · head); no third
   * array of its size.
   */
  const frozenGradient = (h: Tensor, head: Tensor, dLogprob: Tensor, start: number): Tensor => {
    const { z, exp, sum } = distribution(h, head);
    z.dispose();
    const chosen = tf.gather(head, tf.tensor1d(idsOf(start), "int32"));
    const expected = tf.div(tf.matMul(exp as Tensor2D, head as Tensor2D), sum);
    return tf.mul(tf.sub(chosen, expected), tf.mul(dLogprob, 1 / temperature));
  };
  const rowsOf = (x: Tensor, start: number): Tensor =>
    chunk >= M ? x : tf.slice(x, [start, 0], [Math.min(chunk, M - start), -1]);
  /** Flat positions of the targets in a chunk's [rows, V]. */
  const flatTargets = (start: number): Tensor1D =>
    tf.tensor1d(
      idsOf(start).map((id, i) => i * V + id),
      "int32",
    );

  return customGrad(tf, frozenHead ? [h] : [h, head], (inputs, save) => {
    const h = inputs[0]!;
    const parts = starts.map((start) =>
      tf.tidy(() => {
        const { z, exp, sum } = distribution(rowsOf(h, start), head);
        const logSum = tf.log(sum);
        const picked = tf.reshape(tf.gather(tf.reshape(z, [-1]), flatTargets(start)), [-1, 1]);
        // Σ exp·z of each row as a product of matrices, which makes no array of the products
        const dots = tf.matMul(tf.reshape(exp, [-1, 1, V]), tf.reshape(z, [-1, V, 1]));
        const entropy = tf.sub(logSum, tf.div(tf.reshape(dots, [-1, 1]), sum));
        return tf.concat([tf.sub(picked, logSum), entropy], 1);
      }),
    );
    save(inputs);
    return {
      value: parts.length === 1 ? parts[0]! : tf.concat(parts, 0),
      gradFunc: (dy, saved) => {
        // The saved head, not the captured one: a view made in a gradient function is gone by now.
        const [h, savedHead = head] = saved as [Tensor, Tensor?];
        let dHead: Tensor | null = null;
        const dh = starts.map((start) => {
          const [dhPart, dHeadPart] = tf.tidy(() => {
            const hPart = rowsOf(h, start);
            const [dLogprob, dEntropy] = tf.split(rowsOf(dy, start), 2, 1) as [Tensor, Tensor];
            if (frozenHead && !entropyGradient) return [frozenGradient(hPart, savedHead, dLogprob, start)];
            const dLogits = tf.tidy(() => {
              const { z, exp, sum } = distribution(hPart, savedHead);
              if (!entropyGradient) z.dispose();
              const probs = tf.div(exp, sum);
              exp.dispose();
              // d logprob / dz = onehot - p ; d H / dz = -p (log p + H)
              const toTarget = tf.tidy(() => tf.sub(tf.oneHot(tf.tensor1d(idsOf(start), "int32"), V), probs));
              let dz = tf.mul(toTarget, dLogprob);
              toTarget.dispose();
              if (entropyGradient) {
                const logp = tf.sub(z, tf.log(sum));
                const entropy = tf.neg(tf.sum(tf.mul(probs, logp), 1, true));
                dz = tf.sub(dz, tf.mul(tf.mul(probs, tf.add(logp, entropy)), dEntropy));
              }
              return tf.mul(dz, 1 / temperature);
            }) as Tensor2D;
            const dhPart: Tensor = tf.matMul(dLogits, savedHead as Tensor2D);
            return frozenHead ? [dhPart] : [dhPart, tf.matMul(dLogits, hPart as Tensor2D, true, false)];
          }) as [Tensor, Tensor?];
          if (dHeadPart !== undefined) dHead = addGradient(tf, dHead, dHeadPart);
          return dhPart;
        });
        const dhAll = dh.length === 1 ? dh[0]! : tf.concat(dh, 0);
        return frozenHead ? [dhAll] : [dhAll, dHead!];
      },
    };
  }) as Tensor2D;
}
