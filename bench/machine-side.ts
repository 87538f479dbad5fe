/**
 * Our runtimes doing what the machine is judged by: a matrix product, and a triad over long
 * vectors.
 */
import { InferenceSession, Tensor } from "onnxruntime-node";
import { Graph } from "../src/engine/graph/onnx.js";
import { startBackend } from "../src/learner/backend/backend.js";
import type { MachineReply, MachineRequest } from "./requests.js";

const PRODUCTS = 10;

export async function machine({ measure, runtime, size }: MachineRequest, threads: number): Promise<MachineReply> {
  if (measure === "product" && runtime === "onnxruntime") return productInOnnxRuntime(size, threads);
  const { tf } = await startBackend("tensorflow", threads);
  const shape = measure === "product" ? [size, size] : [size];
  const [a, b] = [tf.fill(shape, 0.5), tf.fill(shape, 0.25)];
  const begin = performance.now();
  if (measure === "product") for (let i = 0; i < PRODUCTS; i++) tf.matMul(a, b).dispose();
  // There is no fused multiply-add here: the sum alone moves the same three vectors.
  else tf.add(a, b).dispose();
  const seconds = (performance.now() - begin) / 1_000 / (measure === "product" ? PRODUCTS : 1);
  tf.dispose([a, b]);
  return { seconds };
}

async function productInOnnxRuntime(size: number, threads: number): Promise<MachineReply> {
  const g = new Graph();
  const [a, b] = ["a", "b"].map((name) => g.input(name, "float32", [size, size]));
  g.nodeTo(["c"], "MatMul", [a!, b!]);
  g.output("c", "float32", [size, size]);
  const session = await InferenceSession.create(g.encodeModel(), { intraOpNumThreads: threads });
  const tensor = (value: number) => new Tensor("float32", new Float32Array(size * size).fill(value), [size, size]);
  const feeds = { a: tensor(0.5), b: tensor(0.25) };
  const begin = performance.now();
  for (let i = 0; i < PRODUCTS; i++) await session.run(feeds);
  const seconds = (performance.now() - begin) / 1_000 / PRODUCTS;
  await session.release();
  return { seconds };
}
