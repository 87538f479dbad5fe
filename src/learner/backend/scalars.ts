/**
 * Numbers of expressions as tensors that stay. TensorFlow.js makes a new tensor of each number in
 * `tf.mul(x, 0.5)`, and a GPU finishes all it has been given before it takes the copy.
 */
import type { Scalar } from "@tensorflow/tfjs";
import type { TF } from "./backend.js";

/** By backend and value. */
const kept = new Map<string, Scalar>();

/** A float32 constant, never disposed; for numbers that recur, such as those of a configuration. */
export function constant(tf: TF, value: number): Scalar {
  const key = `${tf.getBackend()} ${value}`;
  let tensor = kept.get(key);
  if (tensor === undefined || tensor.isDisposed) {
    tensor = tf.keep(tf.scalar(value));
    kept.set(key, tensor);
  }
  return tensor;
}

/** Tensors that `constant` keeps, on all backends. */
export const numConstants = (): number => kept.size;
