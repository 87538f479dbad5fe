/** The ONNX Runtime sessions of an engine, and the weights that they compute with. */
import { InferenceSession, type Tensor } from "onnxruntime-node";
import type { EngineOptions } from "./engine-types.js";
import type { Numeric } from "./graph/numeric.js";

export interface Sessions {
  readonly prefill: InferenceSession;
  /** Decodes segments of fewer than `MANY_ROWS` rows. */
  readonly fewRows: InferenceSession;
  /** Decodes all other segments; may be the same session. */
  readonly manyRows: InferenceSession;
}

/** From here on, weights as first operands are faster (SmolLM2-135M, one and two cores). */
const MANY_ROWS = 8;

export interface EngineWeights {
  /** Number type of keys and values. */
  readonly dtype: Numeric["dtype"];
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** Whether the decode graph is that of grouped-segment.ts. */
  readonly fused: boolean;
  /** There are none before the first `load`, where each policy makes its own. */
  readonly sessions: Sessions;
  /** Elements that `load` takes. */
  readonly size: number;
  /** Adopts published weights, and returns the hash of what it now holds. */
  load(packed: Float32Array): Promise<string>;
  dispose(): Promise<void>;
}

export function sessionOptions({ threads, device }: EngineOptions): InferenceSession.SessionOptions {
  return {
    executionProviders: [device ?? "cpu"],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: "all",
    // Shapes change with nearly every run; remembered allocation patterns would only pile up.
    enableMemPattern: false,
    // Each session has its own pool: an idle pool that spins takes cores from the next session.
    extra: {
      session: {
        intra_op: { allow_spinning: "1" },
        force_spinning_stop: "1",
        // Weights stay as long as the session: the arena need not grow by a step for them.
        ...(device === "cuda" && { use_device_allocator_for_initializers: "1" }),
      },
    },
  };
}

export const segmentSession = ({ fewRows, manyRows }: Sessions, rows: number): InferenceSession =>
  rows < MANY_ROWS ? fewRows : manyRows;

export async function releaseSessions({ prefill, fewRows, manyRows }: Sessions): Promise<void> {
  for (const session of new Set([prefill, fewRows, manyRows])) await session.release();
}
