/**
 * Products of matrices, in float32 or with bfloat16's 8 bits: that is about twice as fast on a
 * processor which multiplies it. TensorFlow.js has no such type, so its tensors stay in here.
 */
import { existsSync, readFileSync } from "node:fs";
import type { DataId, Tensor, Tensor2D } from "@tensorflow/tfjs";
import type { TF } from "./backend.js";

export type MatmulPrecision = "float32" | "bfloat16";

interface Metadata {
  readonly id: number;
}

interface NodeBackend {
  binding: Record<"TF_ATTR_TYPE" | "TF_ATTR_BOOL" | "TF_FLOAT", number> & {
    executeOp(op: string, attributes: object[], inputs: number[], outputs: 1): [Metadata];
    deleteTensor(id: number): void;
  };
  getInputTensorIds(tensors: Tensor[]): [number];
  createOutputTensor(metadata: Metadata): Tensor2D;
}

/** DT_BFLOAT16 of TensorFlow's types.proto, which the binding passes through. */
const BFLOAT16 = 14;
/** Below this in any dimension, casting costs what multiplying saves. */
const MIN_SIZE = 64;

/** A process has one backend, so it has one precision. */
let precision: MatmulPrecision = "float32";
/** Rounded copies of constants, by the constant's data. */
const copies = new Map<DataId, number>();

export function setMatmulPrecision(wanted: MatmulPrecision): void {
  precision = wanted;
}

/** True where /proc/cpuinfo names instructions that multiply bfloat16. */
export function multipliesBfloat16(): boolean {
  const file = "/proc/cpuinfo";
  return existsSync(file) && /\b(avx512_bf16|amx_bf16)\b/.test(readFileSync(file, "utf8"));
}

/**
 * a · b [rows, columns] of matrices, either of them transposed first.
 * With bfloat16 factors and result are rounded to it; sums are float32. Small products stay exact.
 * @param constant b never changes: its rounded copy is kept until `forgetConstants`
 */
export function matMul(
  tf: TF,
  a: Tensor,
  b: Tensor,
  transposeA = false,
  transposeB = false,
  constant = false,
): Tensor2D {
  const isSmall = [...a.shape, ...b.shape].some((size) => size < MIN_SIZE);
  if (precision === "float32" || isSmall) return tf.matMul(a as Tensor2D, b as Tensor2D, transposeA, transposeB);
  const backend = tf.backend() as unknown as NodeBackend;
  const { binding } = backend;
  const { TF_ATTR_TYPE, TF_ATTR_BOOL, TF_FLOAT } = binding;
  const cast = (id: number, from: number, to: number): Metadata =>
    binding.executeOp(
      "Cast",
      [
        { name: "SrcT", type: TF_ATTR_TYPE, value: from },
        { name: "DstT", type: TF_ATTR_TYPE, value: to },
        { name: "Truncate", type: TF_ATTR_BOOL, value: false },
      ],
      [id],
      1,
    )[0];
  const rounded = (x: Tensor): number => cast(backend.getInputTensorIds([x])[0], TF_FLOAT, BFLOAT16).id;
  const left = rounded(a);
  const right = (constant ? copies.get(b.dataId) : undefined) ?? rounded(b);
  if (constant) copies.set(b.dataId, right);
  const [product] = binding.executeOp(
    "MatMul",
    [
      { name: "T", type: TF_ATTR_TYPE, value: BFLOAT16 },
      { name: "transpose_a", type: TF_ATTR_BOOL, value: transposeA },
      { name: "transpose_b", type: TF_ATTR_BOOL, value: transposeB },
    ],
    [left, right],
    1,
  );
  const result = backend.createOutputTensor(cast(product.id, BFLOAT16, TF_FLOAT));
  for (const id of constant ? [left, product.id] : [left, right, product.id]) binding.deleteTensor(id);
  return result;
}

/** Frees the rounded copies of these constants, which are about to go. */
export function forgetConstants(tf: TF, constants: Iterable<Tensor>): void {
  for (const { dataId } of constants) {
    const id = copies.get(dataId);
    if (id === undefined) continue;
    (tf.backend() as unknown as NodeBackend).binding.deleteTensor(id);
    copies.delete(dataId);
  }
}
