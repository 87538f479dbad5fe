/**
 * Serves the current policy's weights in chunks on a ROUTER of their own.
 *
 * Actors pull: each asks for the next chunk when it can take one, so a slow actor paces itself and nothing is pushed at
 * anyone. A request for another policy than the current one is answered `gone`.
 */
import { crc32 } from "node:zlib";
import type { Router } from "zeromq";
import type { PolicyVersion } from "../model/weights.js";
import { ProtocolError, decode, encode } from "../protocol/codec.js";
import { Writer, bindRouter } from "../protocol/sockets.js";
import type { Announcement } from "../protocol/wire-schemas.js";
import { weightsRequest } from "../protocol/wire-schemas.js";

export class WeightServer {
  /** What is on offer; null before the first policy. */
  announcement: Announcement | null = null;
  private bytes: Buffer = Buffer.alloc(0);
  private readonly router: Router;
  private readonly writer: Writer;
  private readonly chunkBytes: number;
  private readonly count: (name: string) => void;

  private constructor(router: Router, chunkBytes: number, count: (name: string) => void) {
    this.router = router;
    this.writer = new Writer(router);
    this.chunkBytes = chunkBytes;
    this.count = count;
  }

  /** @param count adds to a running total @throws UserError when the address cannot be bound */
  static async bind(address: string, chunkBytes: number, count: (name: string) => void): Promise<WeightServer> {
    return new WeightServer(await bindRouter(address), chunkBytes, count);
  }

  /** Puts weights on offer. `packed` must stay as it is until the next offer. */
  offer(packed: Float32Array, version: PolicyVersion): void {
    const { iteration, sha256 } = version;
    this.bytes = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
    this.announcement = { iteration, sha256, totalBytes: packed.byteLength, chunkBytes: this.chunkBytes };
  }

  /** Answers requests until `close`. */
  async serve(): Promise<void> {
    for await (const [identity, ...frames] of this.router) {
      try {
        const { header } = decode(weightsRequest, frames);
        // An actor that vanished meanwhile needs no chunk; its next life asks again.
        this.writer.send([identity!, ...this.reply(header)]).catch(() => this.count("weights_chunks_undeliverable"));
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        this.count("messages_malformed");
      }
    }
  }

  close(): void {
    this.router.close();
  }

  private reply({ sha256, chunk }: { sha256: string; chunk: number }): Uint8Array[] {
    const start = chunk * this.chunkBytes;
    if (sha256 !== this.announcement?.sha256 || start >= this.bytes.length) {
      this.count("weights_requests_gone");
      return encode({ type: "gone", sha256 });
    }
    // A copy: the buffer may be overwritten by a later policy while ZeroMQ still holds the frame.
    const bytes = Buffer.copyBytesFrom(this.bytes, start, this.chunkBytes);
    this.count("weights_chunks_served");
    return encode({ type: "chunk", sha256, chunk, crc32: crc32(bytes) }, [bytes]);
  }
}
