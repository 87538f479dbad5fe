/**
 * The journal: every accepted trajectory group on disk before its actor is told so.
 * One append-only file per training batch, `batch-NNNNNN.bin`, of records
 *   [payload length u32][crc32 of the payload u32][payload], little-endian,
 * where a payload is a wire message: a group with its task, or, later, its advantages. A kill
 * in a write leaves a torn tail, which the checksum shows; it is dropped and counted.
 */
import { closeSync, existsSync, fsync, mkdirSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { crc32 } from "node:zlib";
import { asUserError } from "../errors.js";
import { fsyncPath, readBytes, writeFully, writeWhole } from "../files.js";
import {
  ProtocolError,
  decode,
  encode,
  float32,
  groupFromWire,
  groupToWire,
  joinFrames,
  splitFrames,
  taskFromWire,
  taskToWire,
} from "../protocol/codec.js";
import type { Task, TrajectoryGroup } from "../protocol/messages.js";
import { journalRecord } from "../protocol/wire-schemas.js";
import { numbersOf } from "./paths.js";

export type JournalRecord =
  | { readonly type: "trajectory"; readonly task: Task; readonly group: TrajectoryGroup }
  | { readonly type: "advantages"; readonly taskId: string; readonly advantages: readonly Float32Array[] }
  | { readonly type: "setAside"; readonly taskId: string };

const FSYNC_EVERY_MS = 1_000;
const HEADER_BYTES = 8;
const fsyncAsync = promisify(fsync);

export class Journal {
  readonly #directory: string;
  readonly #files = new Map<number, { fd: number; dirty: boolean }>();
  readonly #timer: NodeJS.Timeout;
  #flushing: Promise<void> = Promise.resolve();
  #newFiles = false;

  /** `onError` hears that the once-a-second fsync failed: the run cannot go on. */
  constructor(directory: string, onError: (error: unknown) => void) {
    mkdirSync(directory, { recursive: true });
    this.#directory = directory;
    this.#timer = setInterval(() => void this.flush().catch(onError), FSYNC_EVERY_MS);
    this.#timer.unref();
  }

  /** Returns when the record survives a kill of this process; after `flush`, a power cut. */
  append(batch: number, record: JournalRecord): void {
    let file = this.#files.get(batch);
    if (file === undefined) {
      const path = batchFile(this.#directory, batch);
      if (!existsSync(path)) this.#newFiles = true;
      file = { fd: openSync(path, "a"), dirty: false };
      this.#files.set(batch, file);
    }
    file.dirty = true;
    try {
      writeFully(file.fd, toBytes(record));
    } catch (error) {
      throw asUserError(error, batchFile(this.#directory, batch));
    }
  }

  /** fsync of everything appended so far. */
  flush(): Promise<void> {
    this.#flushing = this.#flushing.catch(() => {}).then(() => this.#fsyncDirty());
    return this.#flushing;
  }

  /** fsyncs and closes the files of batches before `batch`; a later append opens them again. */
  async closeBefore(batch: number): Promise<void> {
    await this.flush();
    for (const [k, file] of this.#files) {
      if (k >= batch || file.dirty) continue;
      this.#files.delete(k);
      closeSync(file.fd);
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.closeBefore(Infinity);
  }

  async #fsyncDirty(): Promise<void> {
    if (this.#newFiles) {
      this.#newFiles = false;
      fsyncPath(this.#directory);
    }
    for (const file of this.#files.values()) {
      if (!file.dirty) continue;
      file.dirty = false;
      await fsyncAsync(file.fd);
    }
  }
}

/**
 * Cuts torn tails, and of batches still to be trained (k ≥ iteration) keeps the trajectories that
 * `keep` accepts. Their advantages belong to the lost training and go too.
 */
export function recoverJournal(
  directory: string,
  iteration: number,
  keep: (task: Task, group: TrajectoryGroup) => boolean,
  setAside: (taskId: string) => void = () => {},
) {
  /** Files with unreadable records before whole ones, or under a right checksum. */
  const damaged: { file: string; records: number }[] = [];
  let [kept, discarded, tornTails] = [0, 0, 0];
  for (const batch of journalBatches(directory)) {
    const file = batchFile(directory, batch);
    const { records, tornBytes, damagedRecords } = readBatchFile(file);
    if (tornBytes > 0) tornTails++;
    if (damagedRecords > 0) damaged.push({ file, records: damagedRecords });
    const survivors = records.filter((record) => {
      if (batch < iteration) return true;
      if (record.type === "advantages") return false;
      if (record.type === "setAside") {
        setAside(record.taskId);
        return true;
      }
      const isKept = keep(record.task, record.group);
      if (isKept) kept++;
      else discarded++;
      return isKept;
    });
    if (tornBytes + damagedRecords > 0 || survivors.length < records.length) writeWhole(file, survivors.map(toBytes));
  }
  return { kept, discarded, tornTails, damaged };
}

/** Deletes the files of all batches before `batch`. @returns how many */
export function thinJournal(directory: string, batch: number): number {
  const old = journalBatches(directory).filter((k) => k < batch);
  for (const k of old) rmSync(batchFile(directory, k), { force: true });
  return old.length;
}

/** Numbers of the batches that have a file, ascending; empty when there is no journal. */
export function journalBatches(directory: string): number[] {
  return numbersOf(directory, /^batch-(\d{6,})\.bin$/);
}

export function batchFile(directory: string, batch: number): string {
  return join(directory, `batch-${String(batch).padStart(6, "0")}.bin`);
}

/** Reads records in the order written; `tornBytes` are of an unfinished one at the end. */
export function readBatchFile(path: string) {
  const bytes = readBytes(path);
  const records: JournalRecord[] = [];
  /** Those in between that cannot be read; 0 in health. */
  let damagedRecords = 0;
  let offset = 0;
  while (bytes.length - offset >= HEADER_BYTES) {
    const payload = payloadAt(bytes, offset);
    if (payload === null) {
      const next = nextRecord(bytes, offset + 1);
      if (next === null) break;
      damagedRecords++;
      offset = next;
      continue;
    }
    try {
      records.push(fromPayload(payload));
    } catch (error) {
      // a right checksum over another form: another release wrote it
      if (!(error instanceof ProtocolError)) throw error;
      damagedRecords++;
    }
    offset += HEADER_BYTES + payload.length;
  }
  return { records, tornBytes: bytes.length - offset, damagedRecords };
}

/** The payload of the record at `offset`; null where there is no whole one. */
function payloadAt(bytes: Buffer, offset: number): Buffer | null {
  const length = bytes.readUInt32LE(offset);
  const payload = bytes.subarray(offset + HEADER_BYTES, offset + HEADER_BYTES + length);
  return payload.length === length && crc32(payload) === bytes.readUInt32LE(offset + 4) ? payload : null;
}

/** Finds the next whole record behind damage. Lengths are compared first: checksums take time. */
function nextRecord(bytes: Buffer, from: number): number | null {
  for (let at = from; at + HEADER_BYTES < bytes.length; at++) {
    const length = bytes.readUInt32LE(at);
    const payload = bytes.subarray(at + HEADER_BYTES, at + HEADER_BYTES + length);
    if (length < 8 || payload.length < length || !isJoined(payload)) continue;
    if (payloadAt(bytes, at) !== null) return at;
  }
  return null;
}

/** True when bytes have the form of joined frames, as far as their lengths tell. */
function isJoined(payload: Buffer): boolean {
  const count = payload.readUInt32LE(0);
  if (count === 0 || count > 16 || 4 + 4 * count > payload.length) return false;
  let total = 4 + 4 * count;
  for (let i = 0; i < count; i++) total += payload.readUInt32LE(4 + 4 * i);
  return total === payload.length;
}

function toBytes(record: JournalRecord): Buffer {
  const payload = joinFrames(toFrames(record));
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(payload.length, 0);
  header.writeUInt32LE(crc32(payload), 4);
  return Buffer.concat([header, payload]);
}

function toFrames(record: JournalRecord): Uint8Array[] {
  if (record.type === "setAside") return encode(record);
  if (record.type === "advantages") {
    const { taskId, advantages } = record;
    const header = { type: "advantages", taskId, lengths: advantages.map((a) => a.length) };
    return encode(header, advantages);
  }
  const task = taskToWire(record.task);
  const group = groupToWire(record.group);
  const header = { type: "trajectory", task: task.header, group: group.header };
  return encode(header, [...task.tensors, ...group.tensors]);
}

function fromPayload(payload: Buffer): JournalRecord {
  const { header, tensors } = decode(journalRecord, splitFrames(payload));
  if (header.type === "setAside") return header;
  if (header.type === "advantages") {
    const { taskId, lengths } = header;
    const advantages = tensors.map((tensor) => float32(tensor, taskId));
    const found = advantages.map(({ length }) => length).join();
    if (found !== lengths.join())
      throw new ProtocolError(`${taskId}: expected advantages of ${lengths.join()} tokens, found ${found}`, taskId);
    return { type: "advantages", taskId, advantages };
  }
  const task = taskFromWire(header.task, tensors.slice(0, 1));
  return { type: "trajectory", task, group: groupFromWire(header.group, tensors.slice(1)) };
}
