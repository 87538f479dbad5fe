/** The whole contract between learner and actors, as types; sockets.ts and codec.ts carry it. */
import type { PolicyVersion } from "../model/identity.js";

/** Raised when a message changes meaning; peers of another version are refused by name. */
export const PROTOCOL_VERSION = 2;

export interface Sampling {
  /** Divides the logits. 0 means greedy (behaviour logprobs are then those of temperature 1). */
  readonly temperature: number;
  readonly maxNewTokens: number;
  /** Any of these ends a completion; the one that was sampled is its last token. */
  readonly stopIds: readonly number[];
}

/** One prompt to be answered `groupSize` times. */
export interface Task {
  /** Unique in a run and the same after a resume: it names the noise and recognises duplicates. */
  readonly taskId: string;
  readonly kind: "train" | "eval";
  /** Training batch this task belongs to; for eval tasks the iteration evaluated. */
  readonly batch: number;
  readonly promptIds: Int32Array;
  readonly groupSize: number;
  /** 64-bit noise key, a function of (run seed, taskId). */
  readonly seed: bigint;
  /** An actor with older weights must fetch newer ones first. */
  readonly minIteration: number;
  readonly sampling: Sampling;
  /** What the reward functions need: the problem's own fields (JSON values). */
  readonly problem: { readonly question: string; readonly answer: string };
}

export type FinishReason = "stop" | "length";
export type Outcome = "correct" | "wrong" | "unparsed" | "truncated";

/** A larger reward, in size, is taken for a defect: it would make gradients infinite. */
export const MAX_REWARD = 1e6;

export interface Completion {
  /** [T] sampled token ids, the stop token included when there was one. */
  readonly ids: Int32Array;
  /** [T] nats of each id under softmax(logits / temperature) of the weights that sampled it. */
  readonly behaviourLogprobs: Float32Array;
  readonly finishReason: FinishReason;
  /** The weights that sampled every token of it. */
  readonly version: PolicyVersion;
  /** By reward function name; null = does not apply, or failed (see `rewardErrors`). */
  readonly rewards: Readonly<Record<string, number | null>>;
  /** Exceptions of reward functions as "<function>: <type>: <message>"; empty in health. */
  readonly rewardErrors: readonly string[];
  readonly outcome: Outcome;
}

export interface Timing {
  /** From arrival at the actor to the first segment. */
  readonly queuedMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
}

export interface TrajectoryGroup {
  readonly taskId: string;
  readonly actorId: string;
  readonly completions: readonly Completion[];
  readonly timing: Timing;
}
