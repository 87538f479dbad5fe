/**
 * A flood of useless messages from peers that read no reply: the run goes on, and neither memory
 * nor the log grows with it. CHAOS=full: 500,000 messages.
 */
import { statSync } from "node:fs";
import { join } from "node:path";
import pino from "pino";
import { Dealer } from "zeromq";
import { expect, it } from "vitest";
import { encode, groupToWire } from "../../src/protocol/codec.js";
import { sealed } from "../../src/protocol/sockets.js";
import { drawOf, randomBytes, residentMegabytes, sized } from "../support/fuzz.js";
import {
  TOKEN,
  answer,
  later,
  makeTask,
  startActor,
  startDispatcher,
  temporaryDirectory,
  until,
  weights,
} from "../support/rollout-fixtures.js";

const messages = sized(20_000, 500_000);
/** Messages of one identity; the next has another. */
const EACH = 2_500;
/** Connections at a time; older ones are closed. */
const MOST_PEERS = 40;

it(`${messages} useless messages cost neither memory nor disk`, { timeout: 600_000 }, async () => {
  const runDir = temporaryDirectory();
  const logFile = join(runDir, "dispatcher.jsonl");
  const logger = pino(pino.destination({ dest: logFile, sync: true }));
  const { dispatcher, ledger, addresses } = await startDispatcher(
    { runDir, log: (level, message, fields = {}) => logger[level](fields, message) },
    { heartbeatMs: 200, silenceMs: 2_000 },
  );
  const publish = (k: number) => dispatcher.publish(weights(k).packed, weights(k).version);
  const connect = (routingId: string): Dealer => {
    const socket = new Dealer({ routingId, linger: 0, sendHighWaterMark: 1_000 });
    socket.connect(addresses.work);
    later(() => socket.close());
    return socket;
  };
  publish(0);
  startActor(addresses);
  let batches = 0;
  const goOn = async (): Promise<void> => {
    expect((await dispatcher.batch(batches)).groups).toHaveLength(4);
    publish(++batches);
  };
  await goOn();

  const counted = (): number =>
    [
      "messages_malformed",
      "messages_damaged",
      "messages_unknown_sender",
      "actors_refused_token",
      "groups_refused_malformed",
      "groups_refused_unknown_task",
    ]
      .map((name) => ledger.totals[name] ?? 0)
      .reduce((a, b) => a + b);
  const group = (actorId: string) => groupToWire(answer(makeTask("b900-0"), weights(0).version, actorId));
  const peers: Dealer[] = [];
  const atStart = await residentMegabytes();
  for (let n = 0; n < messages; n += EACH) {
    const draw = drawOf(2, n);
    const id = `peer-${n}`;
    const socket = connect(id);
    peers.push(socket);
    if (peers.length > MOST_PEERS) peers.shift()!.close();
    const isAdmitted = n % (4 * EACH) === 0;
    if (isAdmitted) await socket.send(sealed(encode({ type: "hello", token: TOKEN, pid: 1, index: 0, capacity: 2 })));
    const { header, tensors } = group(id);
    const kinds = [
      () => [randomBytes(draw, 50)],
      () => sealed([randomBytes(draw, 50)]),
      () => sealed(encode({ ...header, completions: "x".repeat(5_000) })),
      () => sealed(encode(header, tensors)),
      () => sealed(encode({ type: "hello", token: "guessed", pid: 1, index: 0, capacity: 2 })),
    ];
    for (let i = 0; i < EACH; i++) await socket.send(draw.pick(kinds.slice(0, isAdmitted ? 4 : 5))());
    // what is under way is not what stays
    await until(() => counted() >= n + EACH);
    if (n % (10 * EACH) === 0) await goOn();
  }
  await goOn();
  expect(counted()).toBe(messages);
  const grown = (await residentMegabytes()) - atStart;
  const logged = statSync(logFile).size / 1e6;
  console.log(
    `${messages} messages: RSS +${grown.toFixed(0)} MB, log ${logged.toFixed(1)} MB, ${batches} batches`,
    ledger.totals,
  );
  expect(grown).toBeLessThan(200);
  expect(logged).toBeLessThan(50);
});

const requests = sized(500, 5_000);
it(
  `${requests} requests for weights whose answers nobody reads cost no memory, and others are served`,
  { timeout: 600_000 },
  async () => {
    const chunkBytes = 2 ** 20;
    const { dispatcher, ledger, addresses } = await startDispatcher({}, { chunkBytes });
    const packed = new Float32Array(2 ** 20);
    const { version } = weights(0);
    dispatcher.publish(packed, version);
    const connect = (routingId: string): Dealer => {
      const socket = new Dealer({ routingId, linger: 0, receiveHighWaterMark: 1 });
      socket.connect(addresses.weights);
      later(() => socket.close());
      return socket;
    };
    const fetch = sealed(encode({ type: "fetch", token: TOKEN, sha256: version.sha256, chunk: 0 }));
    const deaf = connect("deaf");
    const atStart = await residentMegabytes();
    for (let n = 0; n < requests; n++) await deaf.send(fetch);
    await until(
      () =>
        ledger.totals["weights_chunks_served"] === requests &&
        ledger.totals["weights_chunks_undeliverable"]! >= requests - 20,
    );
    const reader = connect("reader");
    await reader.send(fetch);
    const [, bytes] = await reader.receive();
    expect(bytes).toHaveLength(chunkBytes);
    const grown = (await residentMegabytes()) - atStart;
    console.log(`${requests} requests: RSS +${grown.toFixed(0)} MB`, ledger.totals);
    expect(grown).toBeLessThan(200);
  },
);
