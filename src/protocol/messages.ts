/** The whole contract between learner and actors, as types; sockets.ts and codec.ts carry it. */
import type { GroupHeader, TaskHeader } from "./wire-schemas.js";

/** Raised when a message changes meaning; peers of another version are refused by name. */
export const PROTOCOL_VERSION = 2;
/** A larger reward, in size, is taken for a defect: it would make gradients infinite. */
export const MAX_REWARD = 1e6;

/** One prompt to be answered `groupSize` times. */
export interface Task extends Readonly<Omit<TaskHeader, "type" | "seed">> {
  readonly promptIds: Int32Array;
  /** 64-bit noise key, a function of (run seed, taskId). */
  readonly seed: bigint;
}

export interface Completion extends Readonly<Omit<GroupHeader["completions"][number], "length">> {
  /** [T] sampled token ids, the stop token included when there was one. */
  readonly ids: Int32Array;
  /** [T] nats of each id under softmax(logits / temperature) of the weights that sampled it. */
  readonly behaviourLogprobs: Float32Array;
}

export interface TrajectoryGroup extends Readonly<Omit<GroupHeader, "type" | "completions">> {
  readonly completions: readonly Completion[];
}

export type Sampling = Readonly<TaskHeader["sampling"]>;
export type Timing = Readonly<GroupHeader["timing"]>;
export type FinishReason = Completion["finishReason"];
export type Outcome = Completion["outcome"];
