/** Continuous batching on ONNX Runtime. No fed buffer is written in a run: feeds are in place. */
import { Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../model/config.js";
import type { PolicyVersion } from "../model/identity.js";
import {
  Batch,
  PREFILL_SCORES,
  addToken,
  generatedGroup,
  inFlight,
  stopIdsOf,
  type OpenGroup,
  type SegmentCache,
} from "./batch.js";
import { checkRequest } from "./check-request.js";
import type { Engine, EngineOptions, GenerateRequest, GeneratedGroup, StreamedTokens } from "./engine-types.js";
import { weightsAsInitializers } from "./weights-as-initializers.js";
import { weightsAsInputs } from "./weights-as-inputs.js";
import { segmentSession, type EngineWeights } from "./sessions.js";
import type { AdaptersOnBase } from "./engine-types.js";
import { cacheNames } from "./graph/qwen2.js";
import { newValues, valuesOf } from "./kv-cache.js";
import { fillUniforms } from "./noise.js";
import { PartedCache } from "./parted-cache.js";
import { RowCache } from "./row-cache.js";

export class OrtEngine implements Engine {
  readonly #shape: ModelConfig;
  readonly #options: EngineOptions;
  readonly #weights: EngineWeights;
  readonly #batch: Batch;
  #loaded: PolicyVersion | undefined;
  #busy = false;
  readonly #cache: SegmentCache;

  private constructor(shape: ModelConfig, options: EngineOptions, weights: EngineWeights) {
    this.#shape = shape;
    this.#options = options;
    this.#weights = weights;
    this.#batch = new Batch(options.maxRows);
    this.#cache = weights.fused
      ? new RowCache(shape, weights.dtype)
      : new PartedCache(shape, weights.dtype, options.segmentLength);
  }

  /** @param lora adapters alone are loaded, on this base @throws UserError for base or device */
  static async create(
    shape: ModelConfig,
    options: EngineOptions,
    lora: AdaptersOnBase | null = null,
  ): Promise<OrtEngine> {
    const { device, dtype = "float32", fused = false } = options;
    const initializers = device === "cuda" || dtype !== "float32" || fused;
    const weights = await (initializers ? weightsAsInitializers : weightsAsInputs)(shape, options, lora);
    return new OrtEngine(shape, options, weights);
  }

  get version(): PolicyVersion {
    if (this.#loaded === undefined) throw new Error("the engine has no weights yet: call load first");
    return this.#loaded;
  }

  get pending(): number {
    return this.#batch.pending;
  }

  async load(packed: Float32Array, iteration: number): Promise<PolicyVersion> {
    if (this.#busy || this.#batch.active.length > 0)
      throw new Error("weights may only change while no completion is in flight");
    const { size } = this.#weights;
    if (packed.length !== size) throw new Error(`published weights have ${packed.length} elements, expected ${size}`);
    this.#busy = true;
    // what fails half way has no version
    this.#loaded = undefined;
    try {
      this.#loaded = { iteration, sha256: await this.#weights.load(packed) };
      return this.#loaded;
    } finally {
      this.#busy = false;
    }
  }

  submit(request: GenerateRequest): void {
    checkRequest(request, this.#shape, this.#options);
    this.#batch.add(request);
  }

  cancel(requestId: string, completion?: number): void {
    this.#batch.cancel(requestId, completion);
  }

  streamed(): StreamedTokens[] {
    return this.#batch.streamed();
  }

  async step(): Promise<GeneratedGroup[]> {
    const version = this.version;
    if (this.#busy) throw new Error("step was called again before it returned");
    this.#busy = true;
    try {
      await this.#prefillAll(this.#batch.admit());
      if (this.#batch.active.some((group) => group.completions.some(inFlight))) await this.#segment();
    } finally {
      this.#busy = false;
    }
    const complete = this.#batch.takeComplete();
    if (this.#batch.active.length === 0) {
      this.#cache.clear();
    }
    return complete.map((group) => generatedGroup(group, version));
  }

  async dispose(): Promise<void> {
    await this.#weights.dispose();
  }

  /** Computes the prompts of groups, as many at once as their attention scores allow. */
  async #prefillAll(groups: readonly OpenGroup[]): Promise<void> {
    const sorted = groups.filter(({ prompt }) => prompt.length > 0).sort((a, b) => b.prompt.length - a.prompt.length);
    while (sorted.length > 0) {
      const scores = this.#shape.numHeads * sorted[0]!.prompt.length ** 2;
      await this.#prefill(sorted.splice(0, Math.max(1, Math.floor(PREFILL_SCORES / scores))));
    }
  }

  /** Computes the prompts of `groups`, of which the first is the longest. */
  async #prefill(groups: readonly OpenGroup[]): Promise<void> {
    const begin = performance.now();
    const { numLayers, numKvHeads, headDim } = this.#shape;
    const length = groups[0]!.prompt.length;
    const ids = new BigInt64Array(groups.length * length);
    groups.forEach((group, p) => {
      for (let t = 0; t < group.prompt.length; t++) ids[p * length + t] = BigInt(group.request.promptIds[t]!);
    });
    const feeds = { ...this.#weights.feeds, ids: new Tensor("int64", ids, [groups.length, length]) };
    const outputs = await this.#weights.sessions.prefill.run(feeds);
    for (const [p, group] of groups.entries()) {
      const size = group.prompt.length * headDim;
      for (let layer = 0; layer < numLayers; layer++) {
        for (const name of Object.values(cacheNames("prompt", layer))) {
          const all = valuesOf(outputs[name]!); // [Hkv, P, length, D]
          const own = newValues(this.#weights.dtype, numKvHeads * size);
          for (let head = 0; head < numKvHeads; head++) {
            const from = (head * groups.length + p) * length * headDim;
            own.set(all.subarray(from, from + size), head * size);
          }
          group.prompt.parts.push(own);
        }
      }
    }
    const prefillMs = performance.now() - begin;
    for (const group of groups) group.prefillMs = prefillMs;
  }

  /** Decodes up to `segmentLength` tokens of the completions in flight, each a row of the graph. */
  async #segment(): Promise<void> {
    const begin = performance.now();
    const S = this.#options.segmentLength;
    const arranged = this.#batch.arrange();
    const { rows } = arranged;
    const R = rows.length;
    const stopWidth = Math.max(1, ...rows.map((row) => stopIdsOf(row).length));
    const token = new BigInt64Array(R);
    const budget = new BigInt64Array(R);
    const stopIds = new BigInt64Array(R * stopWidth).fill(-1n);
    const inverseTemperature = new Float32Array(R).fill(1);
    const greedy = new Uint8Array(R);
    const anyArgmax = rows.some(({ group: { request } }) => request.top === true || request.sampling.temperature === 0);
    const uniforms = new Float32Array(S * R);
    const forced = new BigInt64Array(S * R).fill(-1n);
    rows.forEach((row, r) => {
      const { request } = row.group;
      token[r] = BigInt(row.ids.at(-1) ?? request.promptIds[row.group.prompt.length]!);
      budget[r] = BigInt(row.limit - row.ids.length);
      stopIdsOf(row).forEach((id, k) => (stopIds[r * stopWidth + k] = BigInt(id)));
      const { temperature } = request.sampling;
      if (temperature === 0) greedy[r] = 1;
      else inverseTemperature[r] = 1 / temperature;
      const given = request.forced?.[row.index];
      if (given === undefined) fillUniforms(uniforms, R, r, S, request.seed, row.index, row.ids.length);
      else for (let s = 0; s < S; s++) forced[s * R + r] = BigInt(given[row.ids.length + s] ?? -1);
    });
    const steps = Math.min(S, Math.max(...rows.map((row) => row.limit - row.ids.length)));
    const outputs = await segmentSession(this.#weights.sessions, R).run({
      ...this.#weights.feeds,
      ...this.#cache.feeds(arranged),
      steps: new Tensor("int64", BigInt64Array.of(BigInt(steps)), []),
      token: new Tensor("int64", token, [R, 1]),
      budget: new Tensor("int64", budget, [R, 1]),
      stop_ids: new Tensor("int64", stopIds, [R, stopWidth]),
      inverse_temperature: new Tensor("float32", inverseTemperature, [R, 1]),
      greedy: new Tensor("bool", greedy, [R, 1]),
      any_argmax: new Tensor("bool", new Uint8Array(Number(anyArgmax)), [Number(anyArgmax)]),
      uniforms: new Tensor("float32", uniforms, [S, R, 1]),
      forced: new Tensor("int64", forced, [S, R, 1]),
    });

    const tokens = outputs["tokens"]!.data as BigInt64Array;
    const logprobs = outputs["logprobs"]!.data as Float32Array;
    const topTokens = outputs["top_tokens"]!.data as BigInt64Array;
    const topLogprobs = outputs["top_logprobs"]!.data as Float32Array;
    const stepsRun = tokens.length / R;
    rows.forEach((row, r) => {
      for (let s = 0; s < stepsRun && inFlight(row); s++) {
        const at = s * R + r;
        addToken(row, Number(tokens[at]), logprobs[at]!, { id: Number(topTokens[at]), logprob: topLogprobs[at]! });
      }
    });
    this.#cache.append(outputs, stepsRun);
    const decodeMs = performance.now() - begin;
    for (const group of this.#batch.active) group.decodeMs += decodeMs;
  }
}
