/**
 * A process of its own that loads what a learner or actor would: a failed library can crash it.
 * Argument: a ProbeRequest; last line of stdout: a Probe. `process.dlopen` asks the system's loader
 * first, so a missing library gives the loader's own error.
 */
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { messageOf } from "../errors.js";

export interface ProbeRequest {
  readonly role: "learner" | "actor";
  /** Names as the loader takes them, such as libcublas.so.12. */
  readonly libraries: readonly string[];
}

/** A library: where it was found, or why it was not. */
type LibraryFact = ReturnType<typeof openLibrary>;

export interface Probe {
  readonly libraries: readonly LibraryFact[];
  /** TensorFlow.js; null for an actor, and where no backend starts. */
  readonly backend: { readonly name: string; readonly library: string; readonly usesGpu: boolean } | null;
  /** Why better backends were passed over, or why there is none. */
  readonly passedOver: readonly string[];
  /** ONNX Runtime's, by name: null when it computed, else the reason. Empty for a learner. */
  readonly providers: Readonly<Record<string, string | null>>;
}

/** dlopen(3): keeps the library mapped, so that /proc/self/maps can be asked for its path. */
const RTLD_NODELETE = 0x1000;
const NOT_AN_ADDON = /self-register|initializer|undefined symbol: napi_register/;

function openLibrary(name: string): { name: string; path: string | null; error: string | null } {
  try {
    process.dlopen({ exports: {} }, name, constants.dlopen.RTLD_LAZY | RTLD_NODELETE);
  } catch (error) {
    const message = messageOf(error).split("\n")[0]!;
    if (!NOT_AN_ADDON.test(message)) return { name, path: null, error: message };
  }
  const line = readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .find((each) => each.includes(`/${name}`));
  return { name, path: line?.slice(line.indexOf("/")) ?? name, error: null };
}

/** Runs a provider on what our graphs are made of. */
async function runOperators(provider: "cpu" | "cuda"): Promise<{ x: Float32Array; y: Float32Array }> {
  const { InferenceSession, Tensor } = await import("onnxruntime-node");
  const { width, model } = await operatorGraph();
  const session = await InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 4 });
  const x = Float32Array.from({ length: 2 * width }, (_, i) => Math.sin(i));
  const { y } = await session.run({ x: new Tensor("float32", x, [2, width]) });
  await session.release();
  return { x, y: y!.data as Float32Array };
}

/**
 * The operators of the decode loop that ask for a library or kernel of their own: a product of
 * float16 that broadcasts, attention, a reduction, a cumulative sum, and parts of unequal sizes.
 */
async function operatorGraph() {
  const { Graph } = await import("../engine/graph/onnx.js");
  const [heads, D, past, positions] = [4, 16, 3, 8];
  const width = (heads + 2) * D;
  const g = new Graph();
  const int32 = (values: number | readonly number[]) => g.cast(g.int64(values), "int64", "int32");
  const table = (name: string, of: (angle: number) => number) => {
    const values = Float32Array.from({ length: (positions * D) / 2 }, (_, i) => of(i / 10));
    return g.cast(g.tensor(name, [positions, D / 2], values), "float32", "float16");
  };
  const x = g.input("x", "float32", [2, width]);
  const half = g.cast(x, "float32", "float16");
  const cache = g.cast(g.node("ConstantOfShape", [g.int64([2, 1, past, D])]), "float32", "float16");
  g.nodeTo(
    ["attended", "k", "v"],
    "com.microsoft::GroupQueryAttention",
    [
      g.node("Reshape", [half, g.int64([2, 1, width])]),
      "",
      "",
      cache,
      cache,
      int32([past, past - 1]),
      int32(past + 1),
      table("cos", Math.cos),
      table("sin", Math.sin),
    ],
    { num_heads: { int: heads }, kv_num_heads: { int: 1 }, do_rotary: { int: 1 } },
  );
  const rows = g.node("Reshape", [g.cast("attended", "float16", "float32"), g.int64([2, heads * D])]);
  const left = g.node("Reshape", [half, g.int64([1, 2, 1, width])]);
  const right = g.node("Reshape", [half, g.int64([2, 1, 1, width])]);
  const products = g.node("com.microsoft::FusedMatMul", [left, right], { transB: { int: 1 } });
  const all = g.node("Reshape", [g.cast(products, "float16", "float32"), g.int64([2, 2])]);
  const largest = g.node("ReduceMax", [rows, g.int64([1])], { keepdims: { int: 1 } });
  const joined = g.node("Concat", [rows, all, largest, g.node("CumSum", [all, g.int64(1)])], { axis: { int: 1 } });
  g.nodeTo(["y"], "Identity", [joined]);
  g.output("y", "float32", [2, heads * D + 5]);
  return { width, model: g.encodeModel() };
}

/** Largest error of what can be worked out from x [2, width]: products, maximum, cumulative sum. */
function arithmeticError(x: Float32Array, y: Float32Array): number {
  const [width, columns] = [x.length / 2, y.length / 2];
  const dot = (i: number, j: number): number =>
    x.subarray(i * width, (i + 1) * width).reduce((sum, value, t) => sum + value * x[j * width + t]!, 0);
  const errors = [0, 1].flatMap((i) => {
    const row = [...y.subarray(i * columns, (i + 1) * columns)];
    const [first, second, largest, sum, both] = row.splice(-5) as [number, number, number, number, number];
    const expected = [dot(i, 0), dot(i, 1), Math.max(...row), first, first + second];
    return [first, second, largest, sum, both].map((value, k) => Math.abs(value - expected[k]!));
  });
  return Math.max(...errors);
}

/** Null when the provider computes right, on a GPU also as the CPU does; else what is wrong. */
async function tryProvider(provider: "cpu" | "cuda"): Promise<string | null> {
  try {
    const { x, y } = await runOperators(provider);
    const expected = provider === "cpu" ? y : (await runOperators("cpu")).y;
    const gap = Math.max(arithmeticError(x, y), ...y.map((value, i) => Math.abs(value - expected[i]!)));
    return gap < 0.1 ? null : `its numbers are ${gap} off`;
  } catch (error) {
    return messageOf(error);
  }
}

async function probe({ role, libraries }: ProbeRequest): Promise<Probe> {
  const opened = libraries.map(openLibrary);
  if (role === "actor")
    return {
      libraries: opened,
      backend: null,
      passedOver: [],
      providers: { cpu: await tryProvider("cpu"), cuda: await tryProvider("cuda") },
    };
  const { startBackend } = await import("../learner/backend/backend.js");
  try {
    const { name, library, usesGpu, why } = await startBackend("auto", 1);
    return { libraries: opened, backend: { name, library, usesGpu }, passedOver: why, providers: {} };
  } catch (error) {
    return { libraries: opened, backend: null, passedOver: [messageOf(error)], providers: {} };
  }
}

const answer = await probe(JSON.parse(process.argv[2]!) as ProbeRequest);
// libraries that were half loaded can crash a regular exit
process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0));
