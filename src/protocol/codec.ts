/**
 * Bytes of every message: a small MessagePack header (protocol version and type), then one raw
 * frame per tensor. Whatever does not fit its schema raises a ProtocolError; the caller counts it.
 */
import { Packr, Unpackr } from "msgpackr";
import { z } from "zod";
import { messageOf } from "../errors.js";
import { messagePackFault } from "./messagepack.js";
import { type Task, type TrajectoryGroup, PROTOCOL_VERSION } from "./messages.js";
import type { GroupHeader, TaskHeader } from "./wire-schemas.js";

/** A message that cannot be understood, and the task it was about if that is known. */
export class ProtocolError extends Error {
  override name = "ProtocolError";
  readonly taskId: string | null;

  constructor(message: string, taskId: string | null = null) {
    super(message);
    this.taskId = taskId;
  }
}

const packr = new Packr({ useRecords: false });
const unpackr = new Unpackr({ useRecords: false });
const envelope = z.object({
  protocol: z.int(),
  type: z.string(),
  taskId: z.string().max(200).optional().catch(undefined),
});

/**
 * Makes a message's frames: the header, then the tensors' bytes, which are not copied.
 * MessagePack turns −0 into 0 and a lone surrogate into U+FFFD; NaN is for the reader to refuse.
 */
export function encode(header: object, tensors: readonly ArrayBufferView[] = []): Uint8Array[] {
  const bytes = packr.pack(portable({ protocol: PROTOCOL_VERSION, ...header }));
  return [bytes, ...tensors.map((t) => new Uint8Array(t.buffer, t.byteOffset, t.byteLength))];
}

/** Copies plain data without what MessagePack would change on the way. */
function portable(value: unknown): unknown {
  if (typeof value === "string") return value.toWellFormed();
  if (typeof value === "number") return value + 0; // −0 + 0 is 0
  if (Array.isArray(value)) return value.map(portable);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key.toWellFormed(), portable(one)]));
}

/** Checks frame 0; returns the others as they are. @throws ProtocolError for another header */
export function decode<T>(schema: z.ZodType<T>, frames: readonly Uint8Array[]): { header: T; tensors: Uint8Array[] } {
  const [first, ...tensors] = frames;
  if (first === undefined) throw new ProtocolError("expected a header frame, found an empty message");
  const fault = messagePackFault(first);
  if (fault !== null) throw new ProtocolError(`expected a MessagePack header: ${fault}`);
  let raw: unknown;
  try {
    raw = unpackr.unpack(first);
  } catch (error) {
    throw new ProtocolError(`expected a MessagePack header, found ${first.byteLength} bytes (${messageOf(error)})`);
  }
  const outer = envelope.safeParse(raw);
  if (!outer.success) throw new ProtocolError("expected a header with protocol and type");
  if (outer.data.protocol !== PROTOCOL_VERSION)
    throw new ProtocolError(
      `expected protocol version ${PROTOCOL_VERSION}, found ${outer.data.protocol}: run the same release on both sides`,
    );
  const { protocol: _, ...fields } = raw as Record<string, unknown>;
  const parsed = schema.safeParse(fields);
  if (!parsed.success)
    throw new ProtocolError(
      `malformed "${outer.data.type}" message: ${z.prettifyError(parsed.error)}`,
      outer.data.taskId ?? null,
    );
  return { header: parsed.data, tensors };
}

// ---- tasks

export function taskToWire(task: Task): { header: TaskHeader; tensors: ArrayBufferView[] } {
  const { promptIds, seed, ...rest } = task;
  return { header: { type: "task", ...rest, seed: seed.toString(16) }, tensors: [promptIds] };
}

export function taskFromWire(header: TaskHeader, tensors: readonly Uint8Array[]): Task {
  const { type: _, seed, ...rest } = header;
  expectFrames(tensors, 1, header.taskId);
  const promptIds = int32(tensors[0]!, header.taskId);
  if (promptIds.length === 0)
    throw new ProtocolError(`${header.taskId}: expected a prompt, found no token`, header.taskId);
  return { ...rest, promptIds, seed: BigInt(`0x${seed}`) };
}

// ---- trajectories

export function groupToWire(group: TrajectoryGroup): { header: GroupHeader; tensors: ArrayBufferView[] } {
  const total = group.completions.reduce((n, c) => n + c.ids.length, 0);
  const ids = new Int32Array(total);
  const logprobs = new Float32Array(total);
  let offset = 0;
  const completions = group.completions.map(({ ids: own, behaviourLogprobs, ...rest }) => {
    ids.set(own, offset);
    logprobs.set(behaviourLogprobs, offset);
    offset += own.length;
    return { ...rest, length: own.length };
  });
  return { header: { type: "group", ...group, completions }, tensors: [ids, logprobs] };
}

/** @throws ProtocolError when frames disagree, an id is negative, or a logprob is not finite ≤ 0 */
export function groupFromWire(header: GroupHeader, tensors: readonly Uint8Array[]): TrajectoryGroup {
  const { taskId, actorId, timing } = header;
  expectFrames(tensors, 2, taskId);
  const ids = int32(tensors[0]!, taskId);
  const logprobs = float32(tensors[1]!, taskId);
  const total = header.completions.reduce((n, c) => n + c.length, 0);
  if (ids.length !== total || logprobs.length !== total)
    throw new ProtocolError(
      `${taskId}: expected ${total} tokens, found ${ids.length} ids, ${logprobs.length} logprobs`,
      taskId,
    );
  if (ids.some((id) => id < 0)) throw new ProtocolError(`${taskId}: a token id is negative`, taskId);
  // Rounding in log-softmax may leave a logprob a hair above 0; anything else is a broken engine.
  const bad = logprobs.find((p) => !(p <= 1e-4 && p > -Infinity));
  if (bad !== undefined) throw new ProtocolError(`${taskId}: expected logprobs ≤ 0, found ${bad}`, taskId);
  let offset = 0;
  const completions = header.completions.map(({ length, ...rest }) => {
    const span = [offset, (offset += length)] as const;
    return { ...rest, ids: ids.slice(...span), behaviourLogprobs: logprobs.slice(...span) };
  });
  return { taskId, actorId, timing, completions };
}

// ---- one buffer for many frames (journal)

/** [frame count u32][length u32 of each][bytes of each], little-endian. */
export function joinFrames(frames: readonly Uint8Array[]): Buffer {
  const head = Buffer.alloc(4 + 4 * frames.length);
  head.writeUInt32LE(frames.length, 0);
  frames.forEach((frame, i) => head.writeUInt32LE(frame.byteLength, 4 + 4 * i));
  return Buffer.concat([head, ...frames]);
}

/** Inverse of joinFrames; views into `bytes`. @throws ProtocolError when lengths do not add up */
export function splitFrames(bytes: Buffer): Buffer[] {
  const count = bytes.length >= 4 ? bytes.readUInt32LE(0) : 0;
  let offset = 4 + 4 * count;
  if (count === 0 || offset > bytes.length)
    throw new ProtocolError(`expected joined frames, found ${bytes.length} bytes`);
  const frames: Buffer[] = [];
  for (let i = 0; i < count; i++) {
    const length = bytes.readUInt32LE(4 + 4 * i);
    frames.push(bytes.subarray(offset, offset + length));
    offset += length;
  }
  if (offset !== bytes.length) throw new ProtocolError(`expected ${offset} bytes of frames, found ${bytes.length}`);
  return frames;
}

// ---- typed views: received frames are rarely aligned, so each tensor is copied once

function int32(frame: Uint8Array, where: string): Int32Array {
  return new Int32Array(alignedCopy(frame, where));
}

export function float32(frame: Uint8Array, where: string): Float32Array {
  return new Float32Array(alignedCopy(frame, where));
}

function alignedCopy(frame: Uint8Array, where: string): ArrayBuffer {
  if (frame.byteLength % 4 !== 0)
    throw new ProtocolError(`${where}: expected 4-byte elements, found a frame of ${frame.byteLength} bytes`, where);
  const copy = new Uint8Array(frame.byteLength);
  copy.set(frame);
  return copy.buffer;
}

function expectFrames(tensors: readonly Uint8Array[], expected: number, where: string): void {
  if (tensors.length !== expected)
    throw new ProtocolError(`${where}: expected ${expected} tensor frames, found ${tensors.length}`, where);
}
