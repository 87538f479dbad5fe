/** An engine in this process, as in training, for commands that need no learner. */
import { availableParallelism } from "node:os";
import type { ModelFiles } from "../model/read-model.js";
import type { EngineOptions, GenerateRequest, GeneratedGroup } from "./engine-types.js";
import { OrtEngine } from "./engine.js";

/** An engine that holds the model. @param threads of ONNX Runtime; 0 = all cores */
export async function startEngine(
  { shape, baseFolder, lora, published }: ModelFiles,
  threads: number,
  more: Partial<EngineOptions> = {},
) {
  const options = { threads: threads || availableParallelism(), maxRows: 256, segmentLength: 8, ...more };
  const engine = await OrtEngine.create(shape, options, lora === null ? null : { spec: lora, baseFolder });
  await engine.load(published(), 0);
  return engine;
}

/** Answers all requests; results in the order asked. `onDone` counts finished groups. */
export async function generateAll(
  engine: OrtEngine,
  requests: readonly GenerateRequest[],
  onDone: (done: number) => void = () => {},
): Promise<GeneratedGroup[]> {
  const results = new Map<string, GeneratedGroup>();
  for (const request of requests) engine.submit(request);
  while (engine.pending > 0) {
    for (const group of await engine.step()) results.set(group.requestId, group);
    onDone(results.size);
  }
  return requests.map((request) => results.get(request.requestId)!);
}
