/** Fetches a policy's weights: from a file in shared memory, else in checked chunks. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import type { Dealer } from "zeromq";
import { ProtocolError, decode, encode } from "../protocol/codec.js";
import { DamagedMessage, Writer, connectDealer, undamaged } from "../protocol/sockets.js";
import { type Announcement, weightsReply } from "../protocol/wire-schemas.js";

/** Requests under way at once: hides the round trip without flooding the learner. */
const WINDOW = 4;
/** A reply this late is taken for lost. */
const REPLY_TIMEOUT_MS = 5_000;

export class WeightFetcher {
  readonly #socket: Dealer;
  readonly #writer: Writer;
  readonly #count: (name: string) => void;
  readonly #token: string;
  /** One for all fetches: a new one each time would wait for two threads' collectors. */
  #buffer = new SharedArrayBuffer(0);

  constructor(address: string, identity: string, token: string, count: (name: string) => void) {
    this.#token = token;
    this.#socket = connectDealer(address, identity);
    this.#socket.receiveTimeout = REPLY_TIMEOUT_MS;
    this.#writer = new Writer(this.#socket);
    this.#count = count;
  }

  /**
   * The announced policy's packed weights in shared memory, which the next fetch overwrites.
   * Null when the learner has moved on to another policy, or the fetcher was closed.
   */
  async fetch({ sha256, totalBytes, chunkBytes, file }: Announcement): Promise<Float32Array | null> {
    if (this.#buffer.byteLength !== totalBytes) this.#buffer = new SharedArrayBuffer(totalBytes);
    const bytes = new Uint8Array(this.#buffer);
    if (file !== null && readWhole(file, bytes)) {
      this.#count("weights_fetched");
      return new Float32Array(bytes.buffer);
    }
    const chunks = Math.ceil(totalBytes / chunkBytes);
    const missing = new Set(Array.from({ length: chunks }, (_, i) => i));
    const request = (chunk: number) => this.#writer.send(encode({ type: "fetch", token: this.#token, sha256, chunk }));
    let next = 0;
    while (next < Math.min(WINDOW, chunks)) await request(next++);
    while (missing.size > 0) {
      const reply = await this.#receive();
      if (this.#socket.closed) return null;
      if (reply === null) {
        for (const chunk of missing) if (chunk < next) await request(chunk);
        continue;
      }
      // Late replies of an abandoned fetch and second copies of a chunk are passed over.
      if (reply === "malformed" || reply.header.sha256 !== sha256) continue;
      if (reply.header.type === "gone") return null;
      const { chunk } = reply.header;
      if (!missing.has(chunk)) continue;
      const body = reply.tensors[0];
      const expected = Math.min(chunkBytes, totalBytes - chunk * chunkBytes);
      if (body?.byteLength !== expected)
        throw new Error(`weights: expected a chunk of ${expected} bytes, found ${body?.byteLength ?? 0}`);
      bytes.set(body, chunk * chunkBytes);
      missing.delete(chunk);
      if (next < chunks) await request(next++);
    }
    this.#count("weights_fetched");
    return new Float32Array(bytes.buffer);
  }

  close(): void {
    this.#socket.close();
  }

  /** Null when no reply came in time, or a damaged one. */
  async #receive() {
    try {
      return decode(weightsReply, undamaged(await this.#socket.receive()));
    } catch (error) {
      if (error instanceof DamagedMessage) {
        this.#count("weights_chunks_corrupted");
        return null;
      }
      if (error instanceof ProtocolError) {
        this.#count("messages_malformed");
        return "malformed" as const;
      }
      if (this.#socket.closed || (error as { code?: string }).code === "EAGAIN") return null;
      throw error;
    }
  }
}

/** Fills `bytes` from a file of exactly that size; false when there is none (any more). */
function readWhole(file: string, bytes: Uint8Array): boolean {
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch {
    return false; // replaced by a later policy, or another machine's
  }
  try {
    if (fstatSync(fd).size !== bytes.length) return false;
    for (let done = 0; done < bytes.length;) {
      const read = readSync(fd, bytes, done, bytes.length - done, done);
      if (read === 0) return false;
      done += read;
    }
    return true;
  } finally {
    closeSync(fd);
  }
}
