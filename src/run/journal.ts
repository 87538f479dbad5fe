/**
 * The journal: every accepted trajectory group on disk before its actor is told so.
 * One append-only file per training batch, `batch-NNNNNN.bin`, of records
 *   [payload length u32][crc32 of the payload u32][payload], little-endian,
 * where a payload is a wire message: a group with its task, or, later, its advantages. A kill
 * in a write leaves a torn tail, which the checksum shows; it is dropped and counted.
 */
import { closeSync, existsSync, fsync, mkdirSync, openSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { crc32 } from "node:zlib";
import { fsyncPath, writeFully, writeWhole } from "../files.js";
import {
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

export type JournalRecord =
  | { readonly type: "trajectory"; readonly task: Task; readonly group: TrajectoryGroup }
  | { readonly type: "advantages"; readonly taskId: string; readonly advantages: readonly Float32Array[] };

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
    writeFully(file.fd, toBytes(record));
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

/** What was found on disk after a crash or stop. */
export interface Recovery {
  readonly kept: number;
  readonly discarded: number;
  readonly tornTails: number;
}

/**
 * Cuts torn tails, and of batches still to be trained (k ≥ iteration) keeps the trajectories that
 * `keep` accepts. Their advantages belong to the lost training and go too.
 */
export function recoverJournal(
  directory: string,
  iteration: number,
  keep: (task: Task, group: TrajectoryGroup) => boolean,
): Recovery {
  let kept = 0;
  let discarded = 0;
  let tornTails = 0;
  for (const batch of journalBatches(directory)) {
    const path = batchFile(directory, batch);
    const { records, tornBytes } = readBatchFile(path);
    if (tornBytes > 0) tornTails++;
    const survivors =
      batch < iteration ? records : records.filter((r) => r.type === "trajectory" && keep(r.task, r.group));
    if (batch >= iteration) {
      kept += survivors.length;
      discarded += records.filter((r) => r.type === "trajectory").length - survivors.length;
    }
    if (tornBytes > 0 || survivors.length < records.length) writeWhole(path, survivors.map(toBytes));
  }
  return { kept, discarded, tornTails };
}

/** Numbers of the batches that have a file, ascending; empty when there is no journal. */
export function journalBatches(directory: string): number[] {
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .map((name) => /^batch-(\d{6,})\.bin$/.exec(name)?.[1])
    .filter((digits) => digits !== undefined)
    .map(Number)
    .toSorted((a, b) => a - b);
}

export function batchFile(directory: string, batch: number): string {
  return join(directory, `batch-${String(batch).padStart(6, "0")}.bin`);
}

/** All whole records in the order written, and how many bytes after them are no record. */
export function readBatchFile(path: string): { records: JournalRecord[]; tornBytes: number } {
  const bytes = readFileSync(path);
  const records: JournalRecord[] = [];
  let offset = 0;
  while (bytes.length - offset >= HEADER_BYTES) {
    const length = bytes.readUInt32LE(offset);
    const payload = bytes.subarray(offset + HEADER_BYTES, offset + HEADER_BYTES + length);
    if (payload.length < length || crc32(payload) !== bytes.readUInt32LE(offset + 4)) break;
    records.push(fromPayload(payload));
    offset += HEADER_BYTES + length;
  }
  return { records, tornBytes: bytes.length - offset };
}

function toBytes(record: JournalRecord): Buffer {
  const payload = joinFrames(toFrames(record));
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(payload.length, 0);
  header.writeUInt32LE(crc32(payload), 4);
  return Buffer.concat([header, payload]);
}

function toFrames(record: JournalRecord): Uint8Array[] {
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
  if (header.type === "advantages") {
    const advantages = header.lengths.map((_, i) => float32(tensors[i] ?? new Uint8Array(), header.taskId));
    return { type: "advantages", taskId: header.taskId, advantages };
  }
  const task = taskFromWire(header.task, tensors.slice(0, 1));
  return { type: "trajectory", task, group: groupFromWire(header.group, tensors.slice(1)) };
}
