/** Gradient checkpointing: activations are recomputed for the gradient instead of remembered. */
import type { Tensor } from "@tensorflow/tfjs";
import type { TF } from "../backend/backend.js";
import { weight, type NamedWeights } from "./named-weights.js";
import { addGradient, customGrad } from "./primitives.js";

interface TapeState {
  activeTape: unknown;
}

/**
 * run(x, weights), recomputed for the gradient instead of remembered (Chen et al. 2016). Every
 * trained weight is an explicit input, or its gradient would be lost. tfjs has one active tape, so
 * the outer one is put aside while the inner gradient is taken.
 * @param prefixes of the names of all weights that `run` looks up
 * @param rowsAtOnce rows of x [N, H] that `run` sees at a time: below N where each row stands alone
 */
export function checkpointed(
  tf: TF,
  x: Tensor,
  weights: NamedWeights,
  prefixes: readonly string[],
  rowsAtOnce: number,
  run: (x: Tensor, weights: NamedWeights) => Tensor,
): Tensor {
  const all = [...weights.tensors].filter(([name]) => prefixes.some((prefix) => name.startsWith(prefix)));
  const names = all.flatMap(([name]) => (weights.lora === null || name.includes(".lora_") ? [name] : []));
  const N = x.shape[0]!;
  const starts = Array.from({ length: Math.ceil(N / rowsAtOnce) }, (_, i) => i * rowsAtOnce);
  const rowsOf = (x: Tensor, start: number): Tensor =>
    starts.length === 1 ? x : tf.slice(x, [start, 0], [Math.min(rowsAtOnce, N - start), -1]);
  const joined = (parts: Tensor[]): Tensor => (parts.length === 1 ? parts[0]! : tf.concat(parts, 0));
  const runOn = (part: Tensor, trained: readonly Tensor[], start: number): Tensor => {
    const tensors = new Map([...all, ...names.map((name, i): [string, Tensor] => [name, trained[i]!])]);
    return run(part, { tensors, lora: withSeed(weights.lora, start) });
  };
  return customGrad(tf, [x, ...names.map((name) => weight(weights, name))], (inputs, save) => {
    save(inputs);
    const [x, ...trained] = inputs as [Tensor, ...Tensor[]];
    return {
      value: joined(starts.map((start) => tf.tidy(() => runOn(rowsOf(x, start), trained, start)))),
      gradFunc: (dy, saved) => {
        const [x, ...trained] = saved as [Tensor, ...Tensor[]];
        const state = tf.engine().state as unknown as TapeState;
        const outer = state.activeTape;
        let sums: Tensor[] | null = null;
        try {
          const dx = starts.map((start) => {
            const [dxPart, ...parts] = tf.tidy(() => {
              const inputs = [rowsOf(x, start), ...trained];
              const forward = (): Tensor => runOn(inputs[0]!, trained, start);
              return tf.engine().gradients(forward, inputs, rowsOf(dy, start), true).grads;
            }) as [Tensor, ...Tensor[]];
            const before: Tensor[] | null = sums;
            sums = before === null ? parts : before.map((sum, i) => addGradient(tf, sum, parts[i]!));
            return dxPart;
          });
          return [joined(dx), ...sums!];
        } finally {
          state.activeTape = outer;
        }
      },
    };
  });
}

/** Dropout of rows from `start` on: other rows drop other inputs. */
function withSeed(lora: NamedWeights["lora"], start: number): NamedWeights["lora"] {
  if (lora === null || lora.dropout === null || start === 0) return lora;
  return { ...lora, dropout: { ...lora.dropout, seed: `${lora.dropout.seed} ${start}` } };
}
