/** Schemas of every message header (frame 0) and journal record; codec.ts checks tensors. */
import { z } from "zod";

const count = z.int().nonnegative();
/** Sums of these stay finite. */
const milliseconds = z.number().nonnegative().max(1e15);
const text = z.string().max(10_000);
const id = z.string().min(1).max(200);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const policyVersion = z.strictObject({ iteration: count, sha256 });

/** A policy on offer, cut into chunks of `chunkBytes` (the last may be shorter). */
const announcement = z.strictObject({
  iteration: count,
  sha256,
  totalBytes: z.int().positive(),
  chunkBytes: z.int().positive(),
  /** Where the same bytes lie for processes of this machine; null when there is no such place. */
  file: z.string().nullable(),
});
export type Announcement = z.infer<typeof announcement>;

// ---- work socket, actor to learner

/** Secret of the run, which the launcher gives to its actors. */
const token = z.string().max(200);
/** Completions an actor may hold. */
const capacity = z.int().positive().max(100_000);

/** First message of an actor, and its answer to `unknown`. */
const hello = z.strictObject({
  type: z.literal("hello"),
  token,
  pid: count,
  index: count,
  /** Credits: rows (completions) the actor takes at once. */
  capacity,
});

export type Hello = z.infer<typeof hello>;

const actorHeartbeat = z.strictObject({
  type: z.literal("heartbeat"),
  capacity,
  /** Weights in use; null before the first load. */
  version: policyVersion.nullable(),
  /** Tasks in hand: waiting, being sampled, or not yet acknowledged. */
  held: z.array(id).max(100_000),
  /** Segments run so far: proof that held tasks progress. */
  steps: count,
  /** Since the start of the process. */
  busyMs: milliseconds,
  idleMs: milliseconds,
  /** Running totals by name, summed over actors into the learner's statistics. */
  counters: z
    .record(z.string().regex(/^[a-z_]{1,60}$/), count)
    .refine((counters) => Object.keys(counters).length <= 50, "expected at most 50 counters"),
});
export type ActorHeartbeat = z.infer<typeof actorHeartbeat>;

/** Frames: ids int32, logprobs float32; all completions one after the other. */
export const groupHeader = z.strictObject({
  type: z.literal("group"),
  taskId: id,
  actorId: id,
  /** `queuedMs`: from arrival at the actor to the first segment. */
  timing: z.strictObject({ queuedMs: milliseconds, prefillMs: milliseconds, decodeMs: milliseconds }),
  completions: z.array(
    z.strictObject({
      length: count,
      finishReason: z.enum(["stop", "length"]),
      /** The weights that sampled every token of it. */
      version: policyVersion,
      /** By reward function name; null = does not apply, or failed (see `rewardErrors`). */
      rewards: z.record(text, z.number().nullable()),
      /** Exceptions of reward functions as "<function>: <type>: <message>"; empty in health. */
      rewardErrors: z.array(text),
      outcome: z.enum(["correct", "wrong", "unparsed", "truncated"]),
    }),
  ),
});
export type GroupHeader = z.infer<typeof groupHeader>;

const bye = z.strictObject({ type: z.literal("bye"), reason: text });

export const fromActor = z.discriminatedUnion("type", [hello, actorHeartbeat, groupHeader, bye]);

// ---- work socket, learner to actor

/** Sent every second and whenever the policy changes; null before the first publish. */
const learnerHeartbeat = z.strictObject({ type: z.literal("heartbeat"), weights: announcement.nullable() });

/** Frame: promptIds int32. */
export const taskHeader = z.strictObject({
  type: z.literal("task"),
  /** Unique in a run and the same after a resume: it names the noise and recognises duplicates. */
  taskId: id,
  kind: z.enum(["train", "eval"]),
  /** Training batch this task belongs to; for eval tasks the iteration evaluated. */
  batch: count,
  groupSize: z.int().positive(),
  /** Unsigned 64-bit, in hexadecimal: MessagePack readers disagree about integers over 2^53. */
  seed: z.string().regex(/^[0-9a-f]{1,16}$/),
  /** An actor with older weights must fetch newer ones first. */
  minIteration: count,
  sampling: z.strictObject({
    /** Divides the logits. 0 means greedy (behaviour logprobs are then those of temperature 1). */
    temperature: z.number().nonnegative(),
    maxNewTokens: z.int().positive(),
    /** Any of these ends a completion; the one that was sampled is its last token. */
    stopIds: z.array(count).readonly(),
  }),
  /** What the reward functions need: the problem's own fields (JSON values). */
  problem: z.strictObject({ question: z.string(), answer: z.string() }),
});
export type TaskHeader = z.infer<typeof taskHeader>;

const ack = z.strictObject({ type: z.literal("ack"), taskId: id });
/** taskId is null when the refused message named none: a bad actor's hello, or garbage. */
const refused = z.strictObject({ type: z.literal("refused"), taskId: id.nullable(), reason: text, fatal: z.boolean() });
/** The learner does not know this actor (any more): say hello again. */
const unknown = z.strictObject({ type: z.literal("unknown") });
const stop = z.strictObject({ type: z.literal("stop"), reason: text });

export const fromLearner = z.discriminatedUnion("type", [learnerHeartbeat, taskHeader, ack, refused, unknown, stop]);

// ---- weights socket

export const weightsRequest = z.strictObject({ type: z.literal("fetch"), token, sha256, chunk: count });

/** `chunk` is followed by its bytes; `gone` says that another policy is current now. */
export const weightsReply = z.discriminatedUnion("type", [
  z.strictObject({ type: z.literal("chunk"), sha256, chunk: count }),
  z.strictObject({ type: z.literal("gone"), sha256 }),
]);

// ---- journal

/** Frames: those of the task (1), then those of the group (2). */
const groupRecord = z.strictObject({ type: z.literal("trajectory"), task: taskHeader, group: groupHeader });
/** Frame: float32 advantages, all completions of the group one after the other. */
const advantagesRecord = z.strictObject({ type: z.literal("advantages"), taskId: id, lengths: z.array(count) });

/** A task that cost too many actors. */
const setAsideRecord = z.strictObject({ type: z.literal("setAside"), taskId: id });

export const journalRecord = z.discriminatedUnion("type", [groupRecord, advantagesRecord, setAsideRecord]);
