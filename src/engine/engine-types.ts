/**
 * What the actor asks of a generation engine. Token ids only: the engine knows no text, no rewards
 * and no sockets.
 */
import type { PolicyVersion } from "../model/identity.js";
import type { LoraSpec } from "../model/lora.js";
import type { FinishReason, Sampling, Timing } from "../protocol/messages.js";

export interface GenerateRequest {
  readonly requestId: string;
  /** [T ≥ 1] */
  readonly promptIds: Int32Array;
  readonly groupSize: number;
  /**
   * 64-bit noise key; the uniform of (completion c, position t) is `uniform(seed, c, t)`, whatever
   * batch the row ran in.
   */
  readonly seed: bigint;
  readonly sampling: Sampling;
  /**
   * Teacher forcing: completion c is `forced[c]`, and its logprobs are measured instead of sampled.
   */
  readonly forced?: readonly Int32Array[];
  /** Also report the most probable token at each position, in `GeneratedCompletion.top`. */
  readonly top?: boolean;
  /** Report new tokens after every segment, in `Engine.streamed`. */
  readonly stream?: boolean;
}

/** The most probable token at each position. */
export interface TopTokens {
  /** [T] */
  readonly ids: Int32Array;
  /** [T] nats, of the distribution that is sampled from */
  readonly logprobs: Float32Array;
}

/** What one completion gained in the last segment. */
export interface StreamedTokens {
  readonly requestId: string;
  readonly completion: number;
  readonly ids: Int32Array;
  readonly logprobs: Float32Array;
  readonly top?: TopTokens;
}

export interface GeneratedCompletion {
  readonly ids: Int32Array;
  /** [T] nats, see Completion.behaviourLogprobs */
  readonly logprobs: Float32Array;
  readonly finishReason: FinishReason;
  readonly version: PolicyVersion;
  /** Where the request asked for it. */
  readonly top?: TopTokens;
}

export interface GeneratedGroup {
  readonly requestId: string;
  readonly completions: readonly GeneratedCompletion[];
  readonly timing: Timing;
}

/** LoRA settings, and the folder that the base is read from. */
export interface AdaptersOnBase {
  readonly spec: LoraSpec;
  readonly baseFolder: string;
}

export interface EngineOptions {
  /** Intra-op threads of the ONNX Runtime session. */
  readonly threads: number;
  /** Most rows (completions in flight) of one batch. */
  readonly maxRows: number;
  /** Most tokens decoded by one run of the graph, for every row. */
  readonly segmentLength: number;
  /** Default cpu. */
  readonly device?: "cpu" | "cuda";
  /** Of linear layers, keys and values; default float32. */
  readonly dtype?: "float32" | "float16";
}

export interface Engine {
  /** Weights now in use. */
  readonly version: PolicyVersion;
  /**
   * Adopts published weights (layout of src/model/published.ts). Called only while no row is in
   * flight; the engine copies them into an arena of its own, hashes what it holds, and returns that
   * version.
   */
  load(packed: Float32Array, iteration: number): PolicyVersion | Promise<PolicyVersion>;
  /** Queues a request; it joins the batch at the next segment boundary with room. */
  submit(request: GenerateRequest): void;
  /**
   * Drops a request, queued or in flight: it is not answered. With `completion`, ends that
   * completion alone, where it is. An unknown or finished request is let be.
   */
  cancel(requestId: string, completion?: number): void;
  /**
   * Tokens since the last call, of requests with `stream` that are in flight; finished groups come
   * whole from `step`.
   */
  streamed(): StreamedTokens[];
  /** Rows and queued requests not yet finished. */
  readonly pending: number;
  /** Runs one segment and returns the groups that finished in it (in order of completion). */
  step(): Promise<GeneratedGroup[]>;
  dispose(): Promise<void>;
}
