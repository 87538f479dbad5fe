/**
 * Serves the current weights: as a file in shared memory, and in chunks on a ROUTER of their own.
 * The file may vanish at any time (the next policy replaces it); chunks always serve. Actors pull,
 * so a slow one paces itself. A request for another policy is answered `gone`.
 */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { Router } from "zeromq";
import type { PolicyVersion } from "../../model/identity.js";
import { ProtocolError, decode, encode } from "../../protocol/codec.js";
import { Writer, bindRouter, undamaged } from "../../protocol/sockets.js";
import { sameToken } from "./run-token.js";
import { type Announcement, weightsRequest } from "../../protocol/wire-schemas.js";

export interface WeightServerOptions {
  /** What an actor has to know. */
  readonly token: string;
  readonly chunkBytes?: number;
  /** In shared memory, for the file; null or absent = chunks alone. */
  readonly folder?: string | null;
  /** Adds to a running total. */
  readonly count: (name: string) => void;
}

/** Size of a chunk of weights; the last one may be shorter. */
export const CHUNK_BYTES = 2 ** 20;
/** Replies that wait for one actor; it has at most four requests under way. */
const UNREAD_CHUNKS = 8;

export class WeightServer {
  /** What is on offer; null before the first policy. */
  announcement: Announcement | null = null;
  #bytes: Buffer = Buffer.alloc(0);
  readonly #router: Router;
  readonly #writer: Writer;
  readonly #options: WeightServerOptions;
  readonly #chunkBytes: number;

  private constructor(router: Router, options: WeightServerOptions) {
    this.#router = router;
    this.#writer = new Writer(router);
    this.#options = options;
    this.#chunkBytes = options.chunkBytes ?? CHUNK_BYTES;
  }

  /** @throws UserError when the address cannot be bound */
  static async bind(address: string, options: WeightServerOptions): Promise<WeightServer> {
    return new WeightServer(await bindRouter(address, UNREAD_CHUNKS), options);
  }

  /** Puts weights on offer. `packed` must stay as it is until the next offer. */
  offer(packed: Float32Array, version: PolicyVersion): void {
    const { iteration, sha256 } = version;
    this.#bytes = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
    const last = this.announcement?.file;
    const file = this.#writeFile(version);
    this.announcement = { iteration, sha256, totalBytes: packed.byteLength, chunkBytes: this.#chunkBytes, file };
    // An actor that is reading it keeps it; one that comes too late asks for chunks.
    if (last && last !== file) rmSync(last, { force: true });
  }

  /** Null when there is no folder, or no room in it. */
  #writeFile({ iteration, sha256 }: PolicyVersion): string | null {
    const { folder, count } = this.#options;
    if (folder === undefined || folder === null) return null;
    const file = join(folder, `${iteration}-${sha256}.bin`);
    try {
      writeFileSync(file, this.#bytes, { mode: 0o600 });
      return file;
    } catch {
      count("weights_files_failed");
      rmSync(file, { force: true });
      return null;
    }
  }

  /** Answers requests until `close`. */
  async serve(): Promise<void> {
    for await (const [identity, ...frames] of this.#router) {
      const reply = this.#replyTo(frames);
      if (reply === null) continue;
      // One at a time, so that requests of a peer that reads nothing hold no chunks. An actor that
      // vanished meanwhile needs none; its next life asks again.
      await this.#writer.send(reply, identity!).catch(() => {
        this.#options.count("weights_chunks_undeliverable");
        return setImmediate(); // memory of what was not sent is freed between turns alone
      });
    }
  }

  close(): void {
    this.#router.close();
  }

  #replyTo(frames: readonly Buffer[]): Uint8Array[] | null {
    try {
      const { header } = decode(weightsRequest, undamaged(frames));
      if (sameToken(header.token, this.#options.token)) return this.#reply(header);
      this.#options.count("weights_requests_refused_token");
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#options.count("messages_malformed");
    }
    return null;
  }

  #reply({ sha256, chunk }: { sha256: string; chunk: number }): Uint8Array[] {
    const start = chunk * this.#chunkBytes;
    if (sha256 !== this.announcement?.sha256 || start >= this.#bytes.length) {
      this.#options.count("weights_requests_gone");
      return encode({ type: "gone", sha256 });
    }
    // A copy: the buffer may be overwritten by a later policy while ZeroMQ still holds the frame.
    const bytes = Buffer.copyBytesFrom(this.#bytes, start, this.#chunkBytes);
    this.#options.count("weights_chunks_served");
    return encode({ type: "chunk", sha256, chunk }, [bytes]);
  }
}
