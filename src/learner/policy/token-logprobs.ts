/** Log-probabilities and entropies of tokens, in chunks: [tokens, vocabulary] is never large. */
import type { Tensor, Tensor1D, Tensor2D } from "@tensorflow/tfjs";
import type { TF } from "../backend/backend.js";
import { matMul } from "../backend/products.js";
import { constant } from "../backend/scalars.js";
import { partSizes } from "./part-sizes.js";
import { addGradient, customGrad } from "./primitives.js";

/** Which of the two columns carry a gradient. */
export type GradientOf = "none" | "logprobs" | "both";

/**
 * [M, 2] of each target under softmax(z = h · headᵀ / temperature), in nats: its log-probability,
 * and the entropy H = logsumexp(z) - Σ p·z. h is [M, hidden], head [V, hidden].
 * @param options gradientOf: what is differentiated, by default nothing; frozenHead: the head has
 *   no gradient and must outlive that of h; maxLogits: logits held at once, in elements
 */
export function tokenLogprobs(
  tf: TF,
  h: Tensor,
  head: Tensor,
  targets: Int32Array,
  temperature: number,
  options: { readonly gradientOf?: GradientOf; readonly frozenHead?: boolean; readonly maxLogits?: number } = {},
): Tensor2D {
  const { gradientOf = "none", frozenHead = false } = options;
  const entropyGradient = gradientOf === "both";
  const isGradientKept = frozenHead && gradientOf === "logprobs";
  const maxLogits = options.maxLogits ?? partSizes(tf)[frozenHead ? "frozenHead" : "trainedHead"];
  const inverse = constant(tf, 1 / temperature);
  const V = head.shape[0]!;
  const M = targets.length;
  const chunk = Math.max(1, Math.min(M, Math.floor(maxLogits / V)));
  const starts = Array.from({ length: Math.ceil(M / chunk) }, (_, i) => i * chunk);

  /** z [rows, V] logits less their largest, exp(z), and the sums of exp(z) [rows, 1]. */
  const distribution = (h: Tensor, head: Tensor): { z: Tensor; exp: Tensor; sum: Tensor } => {
    const logits = matMul(tf, tf.mul(h, inverse), head, false, true, frozenHead);
    const z: Tensor = tf.sub(logits, tf.max(logits, 1, true));
    logits.dispose();
    const exp: Tensor = tf.exp(z);
    return { z, exp, sum: tf.sum(exp, 1, true) };
  };
  const idsOf = (start: number): Int32Array => targets.subarray(start, Math.min(start + chunk, M));
  /** T · d logprob / dh of one chunk, [rows, hidden]: head[target] − p · head. */
  const direction = (exp: Tensor, sum: Tensor, head: Tensor, start: number): Tensor => {
    const chosen = tf.gather(head, tf.tensor1d(idsOf(start), "int32"));
    return tf.sub(chosen, tf.div(matMul(tf, exp, head, false, false, true), sum));
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
      tf.tidy((): [both: Tensor, direction?: Tensor] => {
        const { z, exp, sum } = distribution(rowsOf(h, start), head);
        const logSum = tf.log(sum);
        const picked = tf.reshape(tf.gather(tf.reshape(z, [-1]), flatTargets(start)), [-1, 1]);
        // Σ exp·z of each row as a product of matrices, which makes no array of the products
        const dots = tf.matMul(tf.reshape(exp, [-1, 1, V]), tf.reshape(z, [-1, V, 1]));
        z.dispose();
        const entropy = tf.sub(logSum, tf.div(tf.reshape(dots, [-1, 1]), sum));
        const both = tf.concat([tf.sub(picked, logSum), entropy], 1);
        return isGradientKept ? [both, direction(exp, sum, head, start)] : [both];
      }),
    );
    const joined = (tensors: Tensor[]): Tensor => (tensors.length === 1 ? tensors[0]! : tf.concat(tensors, 0));
    // A frozen head's gradient is known up to a factor for each row: with it kept, the logits need
    // not be made again.
    save(isGradientKept ? [joined(parts.map(([, direction]) => direction!))] : inputs);
    return {
      value: joined(parts.map(([both]) => both)),
      gradFunc: (dy, saved) => {
        if (gradientOf === "none") throw new Error("tokenLogprobs was asked for no gradient.");
        if (isGradientKept) {
          const dLogprob = tf.slice(dy, [0, 0], [-1, 1]);
          return [tf.mul(saved[0]!, tf.mul(dLogprob, inverse))];
        }
        // The saved head, not the captured one: a view made in a gradient function is gone by now.
        const [h, savedHead = head] = saved as [Tensor, Tensor?];
        let dHead: Tensor | null = null;
        const dh = starts.map((start) => {
          const [dhPart, dHeadPart] = tf.tidy(() => {
            const hPart = rowsOf(h, start);
            const [dLogprob, dEntropy] = tf.split(rowsOf(dy, start), 2, 1) as [Tensor, Tensor];
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
              return tf.mul(dz, inverse);
            }) as Tensor2D;
            const dhPart: Tensor = matMul(tf, dLogits, savedHead, false, false, frozenHead);
            return frozenHead ? [dhPart] : [dhPart, matMul(tf, dLogits, hPart, true)];
          }) as [Tensor, Tensor?];
          if (dHeadPart !== undefined) dHead = addGradient(tf, dHead, dHeadPart);
          return dhPart;
        });
        return frozenHead ? [joined(dh)] : [joined(dh), dHead!];
      },
    };
  }) as Tensor2D;
}
