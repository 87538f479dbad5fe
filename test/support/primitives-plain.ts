/**
 * Plain twins of src/learner/policy/primitives.ts: ordinary tfjs operations with tfjs's own
 * gradients, dense, one row (or one completion) at a time. Slow and obvious on purpose; nothing
 * here is shared with the code it is held against.
 */
import type { Tensor, Tensor1D, Tensor2D } from "@tensorflow/tfjs";
import type { TF } from "../../src/learner/backend/backend.js";
import type { SequenceGroup } from "../../src/learner/policy/packing.js";

// tfjs's gradients of unstack and split fail where there is only one part, so rows and parts are
// slices.
const rowsOf = (tf: TF, x: Tensor): Tensor1D[] =>
  Array.from({ length: x.shape[0]! }, (_, n) => tf.reshape(tf.slice(x, [n, 0], [1, -1]), [-1]));

/** x [N, H], weight [H]. */
export function plainRmsNorm(tf: TF, x: Tensor, weight: Tensor, eps: number): Tensor {
  return tf.stack(
    rowsOf(tf, x).map((row) => tf.mul(tf.div(row, tf.sqrt(tf.add(tf.mean(tf.mul(row, row)), eps))), weight)),
  );
}

/** gate, up [N, I]. */
export function plainSwiGlu(tf: TF, gate: Tensor, up: Tensor): Tensor {
  return tf.mul(tf.mul(gate, tf.div(1, tf.add(1, tf.exp(tf.neg(gate))))), up);
}

/** x [N, heads · D]: pair (i, i + D/2) of each head is turned by position · theta^(-2i/D). */
export function plainRotary(tf: TF, x: Tensor, positions: Int32Array, headDim: number, theta: number): Tensor {
  const half = headDim / 2;
  const rows = rowsOf(tf, x).map((row, n) => {
    const angles = Array.from({ length: half }, (_, i) => positions[n]! * theta ** ((-2 * i) / headDim));
    const [cos, sin] = [tf.tensor1d(angles.map(Math.cos)), tf.tensor1d(angles.map(Math.sin))];
    const heads = Array.from({ length: row.size / headDim }, (_, head) => {
      const first = tf.slice1d(row, head * headDim, half);
      const second = tf.slice1d(row, head * headDim + half, half);
      return [
        tf.sub(tf.mul(first, cos), tf.mul(second, sin)) as Tensor1D,
        tf.add(tf.mul(second, cos), tf.mul(first, sin)) as Tensor1D,
      ];
    }).flat();
    return tf.concat1d(heads);
  });
  return tf.stack(rows);
}

/**
 * Causal attention of every completion with its prompt, each as a sequence of its own, every head
 * as a matrix. Tokens lie as the learner packs them: all prompts, then the completions, group by
 * group.
 * @param q [N, Hq · D]
 * @param k [N, Hk · D]
 * @param v [N, Hk · D]
 * @param keepLast whether the last token of each completion is among the N
 */
export function plainAttention(
  tf: TF,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  groups: readonly SequenceGroup[],
  headDim: number,
  keepLast: boolean,
): Tensor {
  const share = q.shape[1]! / k.shape[1]!;
  const heads = q.shape[1]! / headDim;
  const take = (x: Tensor, rows: number[], head: number): Tensor2D =>
    tf.slice(tf.gather(x, tf.tensor1d(rows, "int32")), [0, head * headDim], [-1, headDim]) as Tensor2D;
  /** [T, Hq · D] of one sequence. */
  const sequence = (rows: number[]): Tensor2D => {
    const future = tf.tensor2d(rows.map((_, i) => rows.map((_, j) => (j > i ? -1e30 : 0))));
    const outputs = Array.from({ length: heads }, (_, head): Tensor2D => {
      const kv = Math.floor(head / share);
      const scores = tf.div(tf.matMul(take(q, rows, head), tf.transpose(take(k, rows, kv))), Math.sqrt(headDim));
      return tf.matMul(tf.softmax(tf.add(scores, future) as Tensor2D), take(v, rows, kv));
    });
    return tf.concat2d(outputs, 1);
  };
  let next = 0;
  const range = (length: number): number[] => Array.from({ length }, () => next++);
  const prompts = groups.map((group) => range(group.promptIds.length));
  const outputs: Tensor2D[] = prompts.map(sequence);
  groups.forEach((group, g) => {
    const prompt = prompts[g]!;
    for (const completion of group.completions) {
      const own = range(completion.length - (keepLast ? 0 : 1));
      if (own.length > 0) outputs.push(tf.slice2d(sequence([...prompt, ...own]), [prompt.length, 0], [own.length, -1]));
    }
  });
  return tf.concat2d(outputs, 0);
}

/**
 * h [M, hidden], head [V, hidden] → [M, 2] log-probabilities and entropies of softmax(h · headᵀ /
 * temperature).
 */
export function plainTokenLogprobs(tf: TF, h: Tensor, head: Tensor, targets: Int32Array, temperature: number): Tensor {
  const rows = rowsOf(tf, h).map((state, m) => {
    const logits = tf.div(tf.sum(tf.mul(head, state), 1), temperature);
    const logp = tf.logSoftmax(logits);
    const onlyTarget = tf.tensor1d(Array.from({ length: head.shape[0]! }, (_, id) => Number(id === targets[m])));
    return tf.stack([tf.sum(tf.mul(logp, onlyTarget)), tf.neg(tf.sum(tf.mul(tf.exp(logp), logp)))]);
  });
  return tf.stack(rows);
}
