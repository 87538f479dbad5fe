/** float32 → float16 by ONNX Runtime's own Cast, and the smallest session that tries a device. */
import { InferenceSession, Tensor } from "onnxruntime-node";
import { UserError, messageOf } from "../errors.js";
import { DATA_TYPE, Graph } from "./graph/onnx.js";
import { halfBits } from "./kv-cache.js";

export type HalfConverter = Awaited<ReturnType<typeof halfConverter>>;

/** Casts x [n] to float16. */
function castGraph(): Uint8Array {
  const g = new Graph();
  const x = g.input("x", "float32", ["n"]);
  g.nodeTo(["half"], "Cast", [x], { to: { int: DATA_TYPE.float16 } });
  g.output("half", "float16", ["n"]);
  return g.encodeModel();
}

/** @throws UserError when ONNX Runtime makes no session on a GPU */
export async function checkCuda(): Promise<void> {
  try {
    const session = await InferenceSession.create(castGraph(), { executionProviders: ["cuda"] });
    await session.release();
  } catch (error) {
    throw new UserError(
      `the actors' device is cuda, but ONNX Runtime makes no session there: ${messageOf(error)}. Its CUDA provider needs ` +
        `libonnxruntime_providers_cuda.so and libonnxruntime_providers_shared.so beside onnxruntime-node's binding, ` +
        `the CUDA and cuDNN 9 it was built for, and a GPU (doctor --cuda lists them). Install what is missing, or compute on the CPU (actors.device=cpu, --device cpu).`,
    );
  }
}

export async function halfConverter(threads: number) {
  const session = await InferenceSession.create(castGraph(), { intraOpNumThreads: threads, enableMemPattern: false });
  return {
    /** Rounded to nearest even; beyond ±65,504 infinite. */
    async convert(values: Float32Array): Promise<Uint16Array> {
      const outputs = await session.run({ x: new Tensor("float32", values, [values.length]) });
      return halfBits(outputs["half"]!);
    },
    release: () => session.release(),
  };
}
