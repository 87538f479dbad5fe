/** What is asked of a generation engine, in token ids: it knows no text, rewards or sockets. */
import type { WeightDtype } from "./graph/numeric.js";
import type { PolicyVersion } from "../model/identity.js";
import type { LoraSpec } from "../model/lora.js";
import type { FinishReason, Sampling, Timing } from "../protocol/messages.js";

export interface GenerateRequest {
  readonly requestId: string;
  /** [T ≥ 1] */
  readonly promptIds: Int32Array;
  readonly groupSize: number;
  /** 64-bit noise key: completion c draws `uniform(seed, c, t)` at position t in any batch. */
  readonly seed: bigint;
  readonly sampling: Sampling;
  /** Teacher forcing: completion c is `forced[c]`; its logprobs are measured, not sampled. */
  readonly forced?: readonly Int32Array[];
  /** Also report the most probable token at each position, in `GeneratedCompletion.top`. */
  readonly top?: boolean;
  /** Report new tokens after every segment, in `Engine.streamed`. */
  readonly stream?: boolean;
}

export interface TopTokens {
  /** [T] */
  readonly ids: Int32Array;
  /** [T] nats, of the distribution that is sampled from */
  readonly logprobs: Float32Array;
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

/** What one completion gained in the last segment. */
export interface StreamedTokens extends Pick<GeneratedCompletion, "ids" | "logprobs" | "top"> {
  readonly requestId: string;
  readonly completion: number;
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
  /** Most completions in flight. */
  readonly maxRows: number;
  /** Most tokens of each completion that one run of the graph decodes. */
  readonly segmentLength: number;
  /** Default cpu. */
  readonly device?: "cpu" | "cuda";
  /** Number type of linear layers, keys and values; int8: of linear layers. Default float32. */
  readonly dtype?: WeightDtype;
  /** Decode by grouped-segment.ts; default where float16 can. */
  readonly fused?: boolean;
}

export interface Engine {
  readonly version: PolicyVersion;
  /** Adopts weights while nothing is in flight. @returns the version, with its own copy's hash */
  load(packed: Float32Array, iteration: number): PolicyVersion | Promise<PolicyVersion>;
  /** Queues a request; it joins the batch at the next segment boundary with room. */
  submit(request: GenerateRequest): void;
  /** Drops a request unanswered, or ends one completion of it. Ignores unknown or finished ones. */
  cancel(requestId: string, completion?: number): void;
  /** New tokens of requests with `stream`; those of finished groups come whole from `step`. */
  streamed(): StreamedTokens[];
  /** Completions of groups in flight, and queued requests. */
  readonly pending: number;
  /** Runs one segment and returns the groups that finished in it (in order of completion). */
  step(): Promise<GeneratedGroup[]>;
  dispose(): Promise<void>;
}
