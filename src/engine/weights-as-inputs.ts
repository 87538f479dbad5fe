/** Weights as inputs of every run: on the CPU a new policy then costs a copy. */
import { InferenceSession, Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../model/config.js";
import { hashPacked } from "../model/identity.js";
import { layoutSize, weightLayout } from "../model/layout.js";
import { AdapterMerger } from "./adapter.js";
import type { AdaptersOnBase, EngineOptions } from "./engine-types.js";
import { CPU_FLOAT32 } from "./graph/numeric.js";
import { buildPrefillGraph } from "./graph/qwen2.js";
import { buildSegmentGraph } from "./graph/segment.js";
import { weightViews } from "./graph/weights.js";
import { releaseSessions, sessionOptions, type EngineWeights, type Sessions } from "./sessions.js";

/** Feeds an arena at every run. @param lora the base that `load` merges adapters into */
export async function weightsAsInputs(
  shape: ModelConfig,
  options: EngineOptions,
  lora: AdaptersOnBase | null,
): Promise<EngineWeights> {
  const layout = weightLayout(shape);
  const arena = new Float32Array(layoutSize(layout));
  const merger = lora === null ? null : await AdapterMerger.create(shape, lora, arena, options.threads);
  const { maxRows, segmentLength } = options;
  const create = (graph: Uint8Array) => InferenceSession.create(graph, sessionOptions(options));
  const sessions: Sessions = {
    prefill: await create(buildPrefillGraph(shape)),
    fewRows: await create(buildSegmentGraph(shape, maxRows, segmentLength)),
    manyRows: await create(buildSegmentGraph(shape, maxRows, segmentLength, { ...CPU_FLOAT32, weightsFirst: true })),
  };
  const feeds: Record<string, Tensor> = {};
  for (const { name, shape: dims, offset } of weightViews(shape)) {
    const size = dims.reduce((a, b) => a * b, 1);
    feeds[name] = new Tensor("float32", arena.subarray(offset, offset + size), dims);
  }
  return {
    dtype: CPU_FLOAT32.dtype,
    fused: false,
    feeds,
    sessions,
    size: layoutSize(merger?.layout ?? layout),
    async load(packed) {
      if (merger !== null) return merger.merge(packed);
      arena.set(packed);
      return hashPacked(arena, layout);
    },
    async dispose() {
      await releaseSessions(sessions);
      await merger?.dispose();
    },
  };
}
