/** ZeroMQ sockets: addresses, bind errors a user can mend, one writer per socket. */
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { Dealer, Router } from "zeromq";
import { UserError, messageOf } from "../errors.js";
import { parseAddress } from "./address.js";
import { ProtocolError } from "./codec.js";
import { ownFolder } from "./leftovers.js";

/** Where the learner listens. Weights have their own socket: chunks never delay acks. */
export interface Addresses {
  readonly work: string;
  readonly weights: string;
}

export const HEARTBEAT_MS = 1_000;
/** A peer silent for this long is taken for dead: on a busy machine a process may starve. */
export const SILENCE_MS = 20_000;

/** Longest path of a unix socket on Linux, without the closing NUL (unix(7)). */
const MAX_IPC_PATH = 107;
/** No honest message is larger; a larger one disconnects its sender and spares the memory. */
const MAX_MESSAGE_BYTES = 256 * 2 ** 20;

/**
 * Turns `transport.address` into two socket addresses. "ipc" makes a short private directory
 * (0700), since run directories may be too long or hold no sockets; `cleanup` removes it.
 * @throws UserError for a malformed or non-loopback address
 */
export function resolveAddresses(address: string): { addresses: Addresses; cleanup: () => void } {
  const tcp = parseAddress(address);
  if (tcp === null) {
    const directory = socketDirectory();
    const addresses = { work: `ipc://${join(directory, "work")}`, weights: `ipc://${join(directory, "weights")}` };
    return { addresses, cleanup: () => rmSync(directory, { recursive: true, force: true }) };
  }
  const { host, port } = tcp;
  const ip = host === "localhost" ? "127.0.0.1" : host;
  return { addresses: { work: `tcp://${ip}:${port}`, weights: `tcp://${ip}:${port + 1}` }, cleanup: () => {} };
}

function socketDirectory(): string {
  const longest = (directory: string) =>
    Buffer.byteLength(join(directory, "frl-4026531836-4194304-4294967296-XXXXXX", "weights"));
  // A long TMPDIR (SLURM sets one per job) would not leave room for the file name.
  const parent = longest(tmpdir()) <= MAX_IPC_PATH ? tmpdir() : "/tmp";
  try {
    return ownFolder(parent);
  } catch (error) {
    throw new UserError(
      `${parent}: expected a writable directory for the sockets (${messageOf(error)}). ` +
        `Set TMPDIR to a short local directory, or --transport.address=tcp://127.0.0.1:PORT.`,
    );
  }
}

/**
 * Binds a listening ROUTER; a peer with more than `unread` waiting messages is unreachable.
 * @throws UserError when the address cannot be bound
 */
export async function bindRouter(address: string, unread = 10_000): Promise<Router> {
  const router = new Router({
    mandatory: true,
    // A peer that reads nothing must not hold up the replies to others.
    sendTimeout: 0,
    // A burst to one actor never fills its queue: only a peer that stopped reading does.
    sendHighWaterMark: unread,
    linger: 500,
    maxMessageSize: MAX_MESSAGE_BYTES,
    ipv6: address.includes("["),
  });
  try {
    await router.bind(address);
  } catch (error) {
    router.close();
    const used = (error as { code?: string }).code === "EADDRINUSE";
    throw new UserError(
      used
        ? `${address}: expected a free port, found it in use. Stop the process that holds it, or choose another with --transport.address (weights use the port after it).`
        : `${address}: cannot listen there (${messageOf(error)}). Choose another --transport.address.`,
    );
  }
  return router;
}

/** A connected DEALER under an identity the ROUTER will know it by. */
export function connectDealer(address: string, identity: string): Dealer {
  const dealer = new Dealer({
    routingId: identity,
    sendTimeout: 10_000,
    linger: 500,
    maxMessageSize: MAX_MESSAGE_BYTES,
    ipv6: address.includes("["),
  });
  dealer.connect(address);
  return dealer;
}

/** Sends in the order asked, one at a time: a second blocked `send` of ZeroMQ.js gives EBUSY. */
export class Writer {
  #last: Promise<unknown> = Promise.resolve();
  readonly #socket: Router | Dealer;

  constructor(socket: Router | Dealer) {
    this.#socket = socket;
  }

  /**
   * Sends a message and its checksum, of a ROUTER to `peer`.
   * Rejects when the peer is unreachable or does not drain its queue; later sends go on.
   */
  send(frames: readonly Uint8Array[], peer?: string | Buffer): Promise<void> {
    const message = [...(peer === undefined ? [] : [peer]), ...sealed(frames)];
    const sent = this.#last.then(() => this.#socket.send(message));
    this.#last = sent.catch(() => {});
    return sent;
  }
}

/** A message that is not as it was sent: it is counted and dropped, and its sender asks again. */
export class DamagedMessage extends ProtocolError {}

/** The frames and their checksum. */
export const sealed = (frames: readonly Uint8Array[]): Uint8Array[] => [...frames, checksum(frames)];

/** The frames before the checksum. @throws DamagedMessage when it is not theirs */
export function undamaged(received: readonly Buffer[]): Buffer[] {
  const frames = received.slice(0, -1);
  const found = received.at(-1);
  if (found === undefined || !checksum(frames).equals(found))
    throw new DamagedMessage("expected the checksum of the frames before it, found another last frame");
  return frames;
}

/** CRC-32 over all frames, little-endian. ZeroMQ and TCP's own sum let damage through. */
function checksum(frames: readonly Uint8Array[]): Buffer {
  const sum = Buffer.alloc(4);
  // zlib answers 0 for an empty buffer, whatever it is to go on from
  const all = frames.filter((frame) => frame.byteLength > 0);
  sum.writeUInt32LE(all.reduce((crc, frame) => crc32(frame, crc), 0));
  return sum;
}
