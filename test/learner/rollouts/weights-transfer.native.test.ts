import { mkdtempSync, readdirSync, rmSync, statSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { Dealer, type Router } from "zeromq";
import { describe, expect, it } from "vitest";
import { WeightFetcher } from "../../../src/actors/weight-fetcher.js";
import { WeightServer } from "../../../src/learner/rollouts/weight-server.js";
import { layoutSize } from "../../../src/model/layout.js";
import { decode } from "../../../src/protocol/codec.js";
import { sharedMemoryFolder } from "../../../src/protocol/leftovers.js";
import { Writer, bindRouter, resolveAddresses, undamaged } from "../../../src/protocol/sockets.js";
import { weightsReply } from "../../../src/protocol/wire-schemas.js";
import {
  FakeEngine,
  later,
  layout,
  startActor,
  startDispatcher,
  until,
  weights,
  TOKEN,
} from "../../support/rollout-fixtures.js";

type Counts = Record<string, number>;
const counter = (counts: Counts) => (name: string) => (counts[name] = (counts[name] ?? 0) + 1);

async function startServer(chunkBytes = 512, folder: string | null = null) {
  const { addresses, cleanup } = resolveAddresses("ipc");
  later(cleanup);
  const counts: Counts = {};
  const server = await WeightServer.bind(addresses.weights, {
    token: TOKEN,
    chunkBytes,
    folder,
    count: counter(counts),
  });
  void server.serve();
  later(() => server.close());
  return { server, addresses, counts };
}

function connectFetcher(address: string, token = TOKEN) {
  const counts: Counts = {};
  const fetcher = new WeightFetcher(address, `fetcher-${Math.random()}`, token, counter(counts));
  later(() => fetcher.close());
  return { fetcher, counts };
}

/** A test may be over, and its sockets closed, while a chunk is under way. */
const unlessClosed = (socket: Dealer | Router) => (error: unknown) => {
  if (!socket.closed) throw error;
};

/** Stands between fetcher and server; `tamper` may change a chunk's bytes. */
async function startProxy(weightsAddress: string, tamper: (chunk: number, bytes: Buffer) => void): Promise<string> {
  const { addresses, cleanup } = resolveAddresses("ipc");
  later(cleanup);
  const front = await bindRouter(addresses.weights);
  const back = new Dealer({ linger: 0 });
  back.connect(weightsAddress);
  later(() => (front.close(), back.close()));
  const toBack = new Writer(back);
  let client: Buffer = Buffer.alloc(0);
  void (async () => {
    for await (const [identity, ...frames] of front) {
      client = identity!;
      await toBack.send(undamaged(frames));
    }
  })().catch(unlessClosed(back));
  void (async () => {
    for await (const frames of back) {
      const { header } = decode(weightsReply, frames.slice(0, -1));
      if (header.type === "chunk") tamper(header.chunk, frames[1]!);
      await front.send([client, ...frames]);
    }
  })().catch(unlessClosed(front));
  return addresses.weights;
}

describe("weight transfer", () => {
  it("arrives bit for bit for any chunk size, the last chunk shorter or not", async () => {
    const { packed, version } = weights(4);
    for (const chunkBytes of [512, 1_000, 4_000, 1 << 20, 37]) {
      const { server, addresses, counts } = await startServer(chunkBytes);
      server.offer(packed, version);
      const { fetcher } = connectFetcher(addresses.weights);
      expect(await fetcher.fetch(server.announcement!)).toEqual(packed);
      expect(counts["weights_chunks_served"]).toBe(Math.ceil(4_000 / chunkBytes));
    }
  });

  it("a corrupted chunk is refused and fetched again", async () => {
    const { server, addresses, counts: served } = await startServer();
    const { packed, version } = weights(1);
    server.offer(packed, version);
    let damage = 2;
    const proxy = await startProxy(addresses.weights, (chunk, bytes) => {
      if (chunk === 3 && damage-- > 0) bytes[100]! ^= 1;
    });
    const { fetcher, counts } = connectFetcher(proxy);
    expect(await fetcher.fetch(server.announcement!)).toEqual(packed);
    expect(counts).toMatchObject({ weights_chunks_corrupted: 2, weights_fetched: 1 });
    expect(served["weights_chunks_served"]).toBeGreaterThanOrEqual(8 + 2);
  });

  it("a policy that is no longer current is gone, and the next one is fetched whole", async () => {
    const { server, addresses } = await startServer();
    server.offer(weights(1).packed, weights(1).version);
    const old = server.announcement!;
    server.offer(weights(2).packed, weights(2).version);
    const { fetcher } = connectFetcher(addresses.weights);
    expect(await fetcher.fetch(old)).toBeNull();
    expect(await fetcher.fetch(server.announcement!)).toEqual(weights(2).packed);
  });
});

describe("weights by a file in shared memory", () => {
  const folder = () => {
    const made = mkdtempSync(join(tmpdir(), "frl-test-"));
    later(() => rmSync(made, { recursive: true, force: true }));
    return made;
  };

  it("arrive bit for bit without a chunk, and the file of the policy before is gone", async () => {
    const place = folder();
    const { server, addresses, counts } = await startServer(512, place);
    const { fetcher, counts: fetched } = connectFetcher(addresses.weights);
    for (const k of [1, 2]) {
      server.offer(weights(k).packed, weights(k).version);
      expect(await fetcher.fetch(server.announcement!)).toEqual(weights(k).packed);
      expect(readdirSync(place)).toEqual([basename(server.announcement!.file!)]);
    }
    expect(counts["weights_chunks_served"]).toBeUndefined();
    expect(fetched).toEqual({ weights_fetched: 2 });
  });

  it.each([
    ["vanished", (file: string) => rmSync(file)],
    ["was cut short", (file: string) => truncateSync(file, 100)],
  ])("come in chunks when the file %s", async (_, harm) => {
    const { server, addresses, counts } = await startServer(512, folder());
    server.offer(weights(1).packed, weights(1).version);
    harm(server.announcement!.file!);
    const { fetcher } = connectFetcher(addresses.weights);
    expect(await fetcher.fetch(server.announcement!)).toEqual(weights(1).packed);
    expect(counts["weights_chunks_served"]).toBe(8);
  });

  it("come in chunks when there is no room for a file, which is counted", async () => {
    const { server, counts } = await startServer(512, join(folder(), "not-there"));
    server.offer(weights(1).packed, weights(1).version);
    expect(server.announcement!.file).toBeNull();
    expect(counts).toEqual({ weights_files_failed: 1 });
  });
  it("a folder is private, and there is none where there is no shared memory", () => {
    const root = folder();
    const { folder: made, cleanup } = sharedMemoryFolder(root)!;
    expect(statSync(made).mode & 0o777).toBe(0o700);
    cleanup();
    expect(readdirSync(root)).toEqual([]);
    expect(sharedMemoryFolder(join(root, "nowhere"))).toBeNull();
  });
});

describe("an actor's weights", () => {
  const bytes = layoutSize(layout) * 4;

  it("follow the learner: after each publish the hash the engine loaded is the one announced", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 });
    const { engine } = startActor(addresses);
    for (let k = 0; k < 4; k++) {
      const { packed, version } = weights(k);
      dispatcher.publish(packed, version);
      await dispatcher.batch(k);
      expect(engine.version).toEqual(version);
      await until(() => dispatcher.stats()["actors_on_current_weights"] === 1);
    }
    expect(engine.loads.map((v) => v.iteration)).toEqual([0, 1, 2, 3]);
  });

  it("are loaded again under the new iteration when training changed nothing", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 });
    const { engine } = startActor(addresses);
    const { packed, version } = weights(0);
    for (let iteration = 0; iteration < 3; iteration++) {
      dispatcher.publish(packed, { ...version, iteration });
      await dispatcher.batch(iteration);
    }
    expect(engine.loads).toEqual([0, 1, 2].map((iteration) => ({ ...version, iteration })));
  });

  it("change only while nothing is in flight, and the tasks in hand are still answered", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 1, maxBatches: 3 });
    // FakeEngine.load throws when a request is in flight.
    const slow = new FakeEngine();
    slow.speed = 1;
    const { actor } = startActor(addresses, slow, { capacity: 100 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    await dispatcher.batch(0);
    dispatcher.publish(weights(1).packed, weights(1).version);
    await dispatcher.batch(1);
    dispatcher.publish(weights(2).packed, weights(2).version);
    expect((await dispatcher.batch(2)).groups).toHaveLength(4);
    await expect(Promise.race([actor.done, Promise.resolve("healthy")])).resolves.toBe("healthy");
  });

  it("of another hash than announced are never sampled with; three times in a row end the actor", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 });
    const engine = new FakeEngine();
    const wrong = { ...weights(0).version, sha256: "b".repeat(64) };
    engine.load = () => wrong;
    const { actor } = startActor(addresses, engine);
    dispatcher.publish(weights(0).packed, weights(0).version);
    await expect(actor.done).rejects.toThrow("arrived damaged 3 times");
    expect(dispatcher.stats()["groups_received"]).toBeUndefined();
  });

  it("that do not fit its model are refused with both sizes", async () => {
    const { dispatcher, addresses } = await startDispatcher();
    const { actor } = startActor(addresses, new FakeEngine(), { weightBytes: bytes + 4 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    await expect(actor.done).rejects.toThrow(`weights of ${bytes} bytes, this actor's model needs ${bytes + 4}`);
  });
});

describe("life signs", () => {
  it("an actor whose learner falls silent ends with a clear message", async () => {
    const { addresses, cleanup } = resolveAddresses("ipc");
    later(cleanup);
    const { actor } = startActor(addresses, new FakeEngine(), { silenceMs: 200 });
    await expect(actor.done).rejects.toThrow("The learner has been silent for 0.2 s");
  });

  it("an actor told to stop says so", async () => {
    const { dispatcher, addresses } = await startDispatcher();
    const { actor } = startActor(addresses);
    await until(() => dispatcher.stats()["actors_live"] === 1);
    await dispatcher.close("the run is over");
    await expect(actor.done).resolves.toBe("the run is over");
  });

  it("busy and idle time of actors reach the batch, and their counters the statistics", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 });
    const slow = new FakeEngine();
    slow.speed = 1;
    startActor(addresses, slow);
    dispatcher.publish(weights(0).packed, weights(0).version);
    await dispatcher.batch(0);
    await until(() => (dispatcher.stats()["actor_weights_fetched"] ?? 0) === 1);
    await new Promise((resolve) => setTimeout(resolve, 60));
    dispatcher.publish(weights(1).packed, weights(1).version);
    const { actorBusySeconds, actorIdleSeconds } = await dispatcher.batch(1);
    expect(actorBusySeconds).toBeGreaterThan(0);
    expect(actorIdleSeconds).toBeGreaterThan(0.02);
  });
});
