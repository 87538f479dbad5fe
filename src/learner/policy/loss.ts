/** What a loss gives for one microbatch, and how the microbatches of a step add up. */
import type { Scalar } from "@tensorflow/tfjs";

/** Sums over the microbatch named `…_sum`, largest values named `…_max`: see `mergeMetrics`. */
export type LossMetrics<Name extends string = string> = Readonly<Record<Name, Scalar>>;

export interface Loss {
  /** Add up over the microbatches of an optimizer step. */
  readonly loss: Scalar;
  readonly metrics: LossMetrics;
}

/** Adds a microbatch's metrics to the total: sums add, `…_max` takes the larger. */
export function mergeMetrics(
  total: Readonly<Record<string, number>>,
  part: Readonly<Record<string, number>>,
): Record<string, number> {
  const merged = { ...total };
  for (const [name, value] of Object.entries(part)) {
    const before = merged[name];
    merged[name] = before === undefined ? value : name.endsWith("_max") ? Math.max(before, value) : before + value;
  }
  return merged;
}
