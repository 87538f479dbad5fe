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

/** One addition through a provider: null when it is right, else what went wrong. */
async function tryProvider(provider: "cpu" | "cuda"): Promise<string | null> {
  const { Graph } = await import("../engine/graph/onnx.js");
  const { InferenceSession, Tensor } = await import("onnxruntime-node");
  const graph = new Graph();
  graph.nodeTo(["y"], "Add", [graph.input("x", "float32", [2]), graph.input("x2", "float32", [2])]);
  graph.output("y", "float32", [2]);
  try {
    const session = await InferenceSession.create(graph.encodeModel(), {
      executionProviders: [provider],
      logSeverityLevel: 4,
    });
    const x = new Tensor("float32", Float32Array.of(1, 2));
    const { y } = await session.run({ x, x2: x });
    await session.release();
    return y!.data[1] === 4 ? null : `1 + 1, 2 + 2 gave ${String(y!.data)}`;
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
