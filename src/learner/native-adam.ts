/**
 * Adam's moments and direction in one fused TensorFlow operation (`ResourceApplyAdam`), for the native backend only: about
 * a dozen passes over memory become one. Knows raw TensorFlow operations; knows no learning rates, decay or models.
 */
import type { Tensor } from "@tensorflow/tfjs";
import type { TF } from "./backend.js";

interface OpAttr {
  name: string;
  type: number;
  value: unknown;
}

/** The part of tfjs-node's backend that is used here. */
interface NodeBackend {
  binding: {
    TF_FLOAT: number;
    TF_ATTR_TYPE: number;
    TF_ATTR_SHAPE: number;
    TF_ATTR_STRING: number;
    TF_ATTR_BOOL: number;
  };
  executeSingleOutput(name: string, attrs: OpAttr[], inputs: Tensor[]): Tensor;
  executeMultipleOutputs(name: string, attrs: OpAttr[], inputs: Tensor[], outputs: number): Tensor[];
}

let created = 0; // variables are found by name in the whole process

/** A TensorFlow variable: memory that operations can write in place. */
interface NativeVariable {
  handle: Tensor;
  assign(value: Tensor): void;
  read(): Tensor;
  destroy(): void;
}

/** The moments of a set of parameters, kept where TensorFlow can update them in place. */
export class NativeAdam {
  readonly #tf: TF;
  readonly #m: NativeVariable;
  readonly #v: NativeVariable;
  readonly #direction: NativeVariable;

  /** Moments of 0 for parameters of this shape. Must be called, and used, with "tensorflow" as the current backend. */
  constructor(tf: TF, shape: number[]) {
    this.#tf = tf;
    [this.#m, this.#v, this.#direction] = [0, 1, 2].map(() => createVariable(tf, shape)) as [
      NativeVariable,
      NativeVariable,
      NativeVariable,
    ];
    this.restore(tf.zeros(shape), tf.zeros(shape));
  }

  /**
   * Updates the moments by a gradient and returns m̂ / (√v̂ + ε) (Kingma & Ba 2015, algorithm 1; a new tensor, the caller's
   * to dispose). The operation computes x ← x − α·m / (√v + ε'), so here x = 0, α = −√(1−β₂ᵗ)/(1−β₁ᵗ), ε' = ε·√(1−β₂ᵗ).
   *
   * @param step t, counted from 1
   */
  direction(gradient: Tensor, step: number, beta1: number, beta2: number, epsilon: number): Tensor {
    const tf = this.#tf;
    const bias1 = 1 - beta1 ** step;
    const rootBias2 = Math.sqrt(1 - beta2 ** step);
    return tf.tidy(() => {
      this.#direction.assign(tf.zerosLike(gradient));
      // The bias corrections are in α, in double precision; the operation's own (first two 0) are off.
      const scalars = [0, 0, -rootBias2 / bias1, beta1, beta2, epsilon * rootBias2].map((value) => tf.scalar(value));
      const { binding } = nodeBackend(tf);
      const attrs = [
        typeAttr(tf, "T"),
        { name: "use_locking", type: binding.TF_ATTR_BOOL, value: false },
        { name: "use_nesterov", type: binding.TF_ATTR_BOOL, value: false },
      ];
      const handles = [this.#direction, this.#m, this.#v].map(({ handle }) => handle);
      nodeBackend(tf).executeMultipleOutputs("ResourceApplyAdam", attrs, [...handles, ...scalars, gradient], 0);
      return this.#direction.read();
    });
  }

  /** The moments m and v as new tensors. */
  moments(): [m: Tensor, v: Tensor] {
    return [this.#m.read(), this.#v.read()];
  }

  /** Takes over moments (and disposes the tensors). */
  restore(m: Tensor, v: Tensor): void {
    this.#m.assign(m);
    this.#v.assign(v);
    this.#tf.dispose([m, v]);
  }

  dispose(): void {
    for (const variable of [this.#m, this.#v, this.#direction]) variable.destroy();
  }
}

function createVariable(tf: TF, shape: number[]): NativeVariable {
  const backend = nodeBackend(tf);
  const { binding } = backend;
  const string = (name: string, value: string) => ({ name, type: binding.TF_ATTR_STRING, value });
  const dtype = typeAttr(tf, "dtype");
  const name = `adam-${process.pid}-${created++}`;
  const handle = tf.keep(
    backend.executeSingleOutput(
      "VarHandleOp",
      [
        string("container", ""),
        string("shared_name", name),
        dtype,
        { name: "shape", type: binding.TF_ATTR_SHAPE, value: shape },
      ],
      [],
    ),
  );
  return {
    handle,
    assign: (value) => void backend.executeMultipleOutputs("AssignVariableOp", [dtype], [handle, value], 0),
    read: () => backend.executeSingleOutput("ReadVariableOp", [dtype], [handle]),
    destroy: () => {
      backend.executeMultipleOutputs(
        "DestroyResourceOp",
        [{ name: "ignore_lookup_error", type: binding.TF_ATTR_BOOL, value: true }],
        [handle],
        0,
      );
      handle.dispose();
    },
  };
}

function nodeBackend(tf: TF): NodeBackend {
  return tf.backend() as unknown as NodeBackend;
}

function typeAttr(tf: TF, name: string): OpAttr {
  const { binding } = nodeBackend(tf);
  return { name, type: binding.TF_ATTR_TYPE, value: binding.TF_FLOAT };
}
