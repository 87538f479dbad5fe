import { Dealer } from "zeromq";
import { describe, expect, it } from "vitest";
import { UserError } from "../../../src/errors.js";
import { readBatchFile, batchFile } from "../../../src/run/journal.js";
import { Ledger } from "../../../src/learner/rollouts/ledger.js";
import { SerialSource } from "../../../src/learner/rollouts/serial-source.js";
import { TaskBook } from "../../../src/learner/rollouts/task-book.js";
import { decode, encode, groupToWire, taskFromWire } from "../../../src/protocol/codec.js";
import type { Task, TrajectoryGroup } from "../../../src/protocol/messages.js";
import { type Addresses, Writer, bindRouter, resolveAddresses, undamaged } from "../../../src/protocol/sockets.js";
import { fromLearner } from "../../../src/protocol/wire-schemas.js";
import {
  FakeEngine,
  TOKEN,
  answer,
  later,
  ledgerOptions,
  makeTask,
  scored,
  startActor,
  startDispatcher,
  temporaryDirectory,
  until,
  weights,
} from "../../support/rollout-fixtures.js";

/** A peer that speaks the protocol by hand, to misbehave where a real actor would not. */
function connectPeer(addresses: Addresses, id: string) {
  const socket = new Dealer({ routingId: id, linger: 0 });
  socket.connect(addresses.work);
  later(() => socket.close());
  const tasks: Task[] = [];
  const messages: { type: string; taskId?: string | null; reason?: string; fatal?: boolean }[] = [];
  void (async () => {
    for await (const frames of socket) {
      const { header, tensors } = decode(fromLearner, undamaged(frames));
      if (header.type === "task") tasks.push(taskFromWire(header, tensors));
      else if (header.type !== "heartbeat") messages.push(header);
    }
  })();
  const writer = new Writer(socket);
  const send = (header: object, tensors: readonly ArrayBufferView[] = []) => writer.send(encode(header, tensors));
  const heartbeat = { type: "heartbeat", version: null, held: [], steps: 0, busyMs: 0, idleMs: 0, counters: {} };
  return {
    socket,
    writer,
    tasks,
    messages,
    send,
    hello: (capacity: number) => send({ type: "hello", token: TOKEN, pid: 1, index: 0, capacity }),
    heartbeat: (fields: object) => send({ ...heartbeat, capacity: 4, ...fields }),
    answer: (group: TrajectoryGroup) => {
      const { header, tensors } = groupToWire(group);
      return send(header, tensors);
    },
  };
}

describe("pacing", () => {
  it("never leases a task of batch k before iteration k − max_staleness, and leases all of it then", () => {
    for (const maxStaleness of [0, 1, 3]) {
      const book = new TaskBook(0, ledgerOptions({ maxStaleness, maxBatches: 6, runDir: "unused" }));
      for (let iteration = 0; iteration < 6; iteration++) {
        book.advance(iteration);
        const leased: Task[] = [];
        for (let task; (task = book.lease("a", Infinity, 0, false)) !== null;) leased.push(task);
        for (const task of leased) expect(iteration - task.batch).toBeGreaterThanOrEqual(-maxStaleness);
        const newest = Math.min(5, iteration + maxStaleness);
        const opened = iteration === 0 ? newest + 1 : newest > Math.min(5, iteration - 1 + maxStaleness) ? 1 : 0;
        expect(leased).toHaveLength(4 * opened);
        for (const task of leased) book.complete(answer(task, weights(iteration).version));
        expect(book.finishedBatch(iteration)?.groups).toHaveLength(4);
      }
    }
  });

  it("a whole run never uses weights older than max_staleness, whatever the actors' pace", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 1, maxBatches: 8 });
    const slow = new FakeEngine();
    slow.speed = 1;
    startActor(addresses, slow);
    startActor(addresses);
    const staleness: number[] = [];
    for (let k = 0; k < 8; k++) {
      const { packed, version } = weights(k);
      dispatcher.publish(packed, version);
      const { groups, tasks } = await dispatcher.batch(k);
      expect(groups.map((g) => g.taskId)).toEqual(tasks.map((t) => t.taskId));
      for (const { completions } of groups)
        for (const { version } of completions) staleness.push(k - version.iteration);
    }
    expect(staleness).toHaveLength(8 * 4 * 2);
    expect(Math.max(...staleness)).toBeLessThanOrEqual(1);
    expect(Math.min(...staleness)).toBeGreaterThanOrEqual(0);
  });

  it("evaluation goes first and is answered by exactly the evaluated weights", async () => {
    const { dispatcher, ledger, addresses } = await startDispatcher();
    ledger.publish(weights(0).version);
    fill(ledger, 0);
    const { packed, version } = weights(1);
    dispatcher.publish(packed, version);
    const tasks = [0, 1, 2].map((i) => makeTask(`e${i}`, { kind: "eval", batch: 1, groupSize: 1, minIteration: 1 }));
    const progress: number[] = [];
    const answers = dispatcher.evaluate(tasks, (done) => progress.push(done));
    const peer = connectPeer(addresses, "p");
    await peer.hello(3);
    await until(() => peer.tasks.length === 3);
    expect(peer.tasks.map((t) => t.taskId)).toEqual(["e0", "e1", "e2"]);
    // Older weights will not do, even though max_staleness would allow them in training.
    await peer.answer(answer(peer.tasks[0]!, weights(0).version, "p"));
    await until(() => peer.messages.some((m) => m.type === "refused" && m.taskId === "e0"));
    for (const task of peer.tasks.slice(0, 3)) await peer.answer(answer(task, version, "p"));
    expect((await answers).map((g) => g.taskId)).toEqual(["e0", "e1", "e2"]);
    expect(progress.at(-1)).toBe(3);
    expect(dispatcher.stats()["groups_refused_stale"]).toBe(1);
  });
});

/** Answers every open task. */
function fill(ledger: Ledger, iteration: number): void {
  const { version } = weights(iteration);
  for (let task; (task = ledger.book.lease("a", Infinity, 0, false)) !== null;)
    ledger.receive(answer(task, version, "a"));
}

describe("leases", () => {
  it("tasks of an actor that falls silent go to another one", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 }, { silenceMs: 2_000 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const dead = connectPeer(addresses, "dead");
    await dead.hello(8);
    await until(() => dead.tasks.length === 4);
    const { actor } = startActor(addresses);
    const { groups } = await dispatcher.batch(0);
    expect(new Set(groups.map((g) => g.actorId))).toEqual(new Set([actor.id]));
    expect(dispatcher.stats()).toMatchObject({ actors_lost: 1, tasks_released_actor_gone: 4 });
  });

  it("tasks of an actor that says bye are handed on at once", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 }, { silenceMs: 60_000 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const hung = new FakeEngine();
    hung.speed = 0;
    const leaving = startActor(addresses, hung, { capacity: 8 });
    await until(() => dispatcher.stats()["tasks_leased"] === 4);
    await leaving.actor.close("restarting");
    startActor(addresses);
    await dispatcher.batch(0);
    expect(dispatcher.stats()["tasks_released_actor_gone"]).toBe(4);
  });

  it("a lease runs out unless the engine progresses", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, groupsPerBatch: 1, leaseMs: 200 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "slow");
    await peer.hello(8);
    await until(() => peer.tasks.length === 1);
    const held = [peer.tasks[0]!.taskId];
    for (let steps = 1; steps <= 10; steps++) {
      await peer.heartbeat({ held, steps });
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(dispatcher.stats()["tasks_released_timeout"]).toBeUndefined();
    // From now on alive, but stuck.
    const beating = setInterval(() => void peer.heartbeat({ held, steps: 10 }), 40);
    later(() => clearInterval(beating));
    await until(() => (dispatcher.stats()["tasks_released_timeout"] ?? 0) > 0);
  });

  it("a batch spreads evenly over actors with equal room", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, groupsPerBatch: 6 });
    const peers = ["a", "b", "c"].map((id) => connectPeer(addresses, id));
    for (const peer of peers) await peer.hello(100);
    await until(() => dispatcher.stats()["actors_live"] === 3);
    dispatcher.publish(weights(0).packed, weights(0).version);
    await until(() => peers.every((peer) => peer.tasks.length === 2));
  });

  it("an actor never holds more rows than its capacity", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, groupsPerBatch: 5 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "p");
    await peer.hello(5);
    await until(() => peer.tasks.length === 2);
    await peer.answer(answer(peer.tasks[0]!, weights(0).version, "p"));
    await until(() => peer.tasks.length === 3);
    expect(dispatcher.stats()["tasks_leased"]).toBe(3);
  });

  it("an actor without room for one group is refused with the reason", async () => {
    const { addresses } = await startDispatcher();
    const { actor } = startActor(addresses, new FakeEngine(), { capacity: 1 });
    await expect(actor.done).rejects.toThrow(/group of 2 rows, found actors.max_rows 1/);
  });
});

describe("answers", () => {
  it("a second answer to a task is acknowledged, counted and not used", async () => {
    const runDir = temporaryDirectory();
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, runDir });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "p");
    await peer.hello(8);
    await until(() => peer.tasks.length === 4);
    const group = answer(peer.tasks[0]!, weights(0).version, "p");
    await peer.answer(group);
    await peer.answer(group);
    await until(() => peer.messages.filter((m) => m.type === "ack").length === 2);
    expect(dispatcher.stats()).toMatchObject({ groups_received: 1, groups_duplicate: 1 });
    expect(readBatchFile(batchFile(`${runDir}/trajectories`, 0)).records).toHaveLength(1);
  });

  it("is acknowledged only after it is in the journal", async () => {
    const runDir = temporaryDirectory();
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, runDir });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "p");
    await peer.hello(8);
    await until(() => peer.tasks.length === 4);
    for (const [i, task] of peer.tasks.slice().entries()) {
      await peer.answer(answer(task, weights(0).version, "p"));
      await until(() => peer.messages.some((m) => m.type === "ack" && m.taskId === task.taskId));
      expect(readBatchFile(batchFile(`${runDir}/trajectories`, 0)).records).toHaveLength(i + 1);
    }
  });

  it("sampled by unknown weights is refused, counted, and its task asked again", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, groupsPerBatch: 1 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "p");
    await peer.hello(8);
    await until(() => peer.tasks.length === 1);
    await peer.answer(answer(peer.tasks[0]!, { iteration: 0, sha256: "a".repeat(64) }, "p"));
    await until(() => peer.tasks.length === 2);
    expect(peer.messages[0]).toMatchObject({ type: "refused", taskId: "b0-0", fatal: false });
    expect(peer.messages[0]!.reason).toContain("unknown weights aaaaaaaaaaaa");
    await peer.answer(answer(peer.tasks[1]!, weights(0).version, "p"));
    expect((await dispatcher.batch(0)).groups).toHaveLength(1);
    expect(dispatcher.stats()).toMatchObject({ groups_refused_unknown_weights: 1, groups_received: 1 });
  });

  it("malformed or to no task is refused and counted, and nobody else is disturbed", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "p");
    await peer.hello(2);
    await until(() => peer.tasks.length === 1);
    await peer.writer.send(["not msgpack", "at all"].map((text) => Buffer.from(text)));
    await peer.send({ type: "group", taskId: "b0-0", completions: 7 });
    await peer.answer(answer(makeTask("b9-9"), weights(0).version, "p"));
    await peer.answer({ ...answer(peer.tasks[0]!, weights(0).version, "p"), completions: [] });
    await until(() => peer.messages.filter((m) => m.type === "refused").length === 4);
    expect(dispatcher.stats()).toMatchObject({
      messages_malformed: 1,
      groups_refused_malformed: 2,
      groups_refused_unknown_task: 1,
    });
    startActor(addresses);
    expect((await dispatcher.batch(0)).groups).toHaveLength(4);
  });

  it("a task answered wrongly again and again stops the run with its reason", async () => {
    const failures: unknown[] = [];
    const onFatal = (error: unknown) => failures.push(error);
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, groupsPerBatch: 1, onFatal });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const broken = async (task: Task, generated: Parameters<typeof scored>[1], id: string) => {
      const group = scored(task.taskId, generated, id);
      return { ...group, completions: group.completions.slice(1) };
    };
    startActor(addresses, new FakeEngine(), { score: broken });
    await until(() => failures.length > 0);
    expect(String(failures[0])).toMatch(/b0-0 was answered 5 times .* expected 2 completions, found 1/);
  });

  it("a peer of another protocol version is refused for good, by name", async () => {
    const { addresses, dispatcher } = await startDispatcher();
    const peer = connectPeer(addresses, "old");
    await peer.send({ protocol: 0, type: "hello", token: TOKEN, pid: 1, index: 0, capacity: 8 });
    await until(() => peer.messages.length === 1);
    expect(peer.messages[0]).toMatchObject({ type: "refused", fatal: true });
    expect(peer.messages[0]!.reason).toContain("expected protocol version 2, found 0");
    expect(dispatcher.stats()["actors_live"]).toBe(0);
  });

  it("an actor given up for dead introduces itself again and goes on", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "p");
    await peer.heartbeat({});
    await until(() => peer.messages.some((m) => m.type === "unknown"));
    await peer.hello(8);
    await until(() => peer.tasks.length === 4);
  });

  it("count only from those who were asked, however right they are", async () => {
    const { dispatcher, addresses, ledger } = await startDispatcher({ maxStaleness: 0, groupsPerBatch: 1 });
    const { packed, version } = weights(0);
    dispatcher.publish(packed, version);
    const [asked, stranger, guest] = ["asked", "stranger", "guest"].map((id) => connectPeer(addresses, id));
    await asked!.hello(8);
    await until(() => asked!.tasks.length === 1);
    const task = asked!.tasks[0]!;
    // one that never said hello, and one that did but was not asked
    await stranger!.answer(answer(task, version, "stranger"));
    await until(() => stranger!.messages.some((m) => m.type === "unknown"));
    await guest!.hello(8);
    await guest!.answer(answer(task, version, "guest"));
    await until(() => guest!.messages.some((m) => m.type === "refused"));
    for (let i = 0; i < 10; i++) await guest!.send({ type: "group", taskId: task.taskId, completions: 7 });
    await until(() => guest!.messages.length === 11);
    expect(ledger.book.find(task.taskId)).toMatchObject({ taskId: task.taskId });
    await asked!.answer(answer(task, version, "asked"));
    expect((await dispatcher.batch(0)).groups.map((g) => g.actorId)).toEqual(["asked"]);
    expect(dispatcher.stats()).toMatchObject({
      messages_unknown_sender: 1,
      groups_refused_unknown_task: 1,
      groups_received: 1,
    });
  });
});

describe("the door", () => {
  const heartbeat = { type: "heartbeat", capacity: 4, version: null, held: [], steps: 0, busyMs: 0, idleMs: 0 };

  it("is closed to a peer without the token, which gets no task", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "p");
    await peer.send({ type: "hello", token: `${TOKEN}x`, pid: 1, index: 0, capacity: 8 });
    await until(() => peer.messages.length === 1);
    expect(peer.messages[0]).toMatchObject({ type: "refused", fatal: true });
    await peer.heartbeat({ steps: 5 });
    await until(() => peer.messages.length === 2);
    expect(dispatcher.stats()).toMatchObject({ actors_refused_token: 1, actors_live: 0, messages_unknown_sender: 1 });
    expect(peer.tasks).toHaveLength(0);
  });

  it.each<[string, object]>([
    ["more room than any actor has", { type: "hello", token: TOKEN, pid: 1, index: 0, capacity: 1e9 }],
    ["a counter that is no name", { ...heartbeat, counters: { "a b": 1 } }],
    ["a thousand counters", { ...heartbeat, counters: Object.fromEntries(counterNames(1_000).map((n) => [n, 1])) }],
    ["a counter that is not finite", { ...heartbeat, counters: { a: Infinity } }],
    ["a counter whose sum may be infinite", { ...heartbeat, counters: { a: 1e308 } }],
    ["a time whose sum may be infinite", { ...heartbeat, counters: {}, busyMs: 1e308 }],
    ["a reason of a megabyte", { type: "bye", reason: "x".repeat(1_000_000) }],
    ["a task id of a megabyte", { type: "group", taskId: "x".repeat(1_000_000) }],
  ])("refuses a message with %s", async (_, message) => {
    const { dispatcher, addresses } = await startDispatcher();
    const peer = connectPeer(addresses, "p");
    await peer.hello(8);
    await until(() => dispatcher.stats()["actors_live"] === 1);
    await peer.send(message);
    await until(() => dispatcher.stats()["messages_malformed"] === 1);
    await until(() => peer.messages.length === 1);
    expect(peer.messages[0]!.reason!.length).toBeLessThanOrEqual(1_000);
    expect(dispatcher.stats()["actors_live"]).toBe(1);
  });

  it("keeps the metrics short, whatever names an actor gives its counters", async () => {
    const { dispatcher, addresses } = await startDispatcher();
    const peer = connectPeer(addresses, "p");
    await peer.hello(8);
    const names = counterNames(1_000);
    for (let i = 0; i < names.length; i += 50)
      await peer.heartbeat({ counters: Object.fromEntries(names.slice(i, i + 50).map((name) => [name, 1])) });
    const total = () =>
      Object.entries(dispatcher.stats()).reduce((n, [name, m]) => (/^(actor_|counters_)/.test(name) ? n + m : n), 0);
    await until(() => total() === 1_000);
    expect(Object.keys(dispatcher.stats()).length).toBeLessThan(210);
  });

  it("drops a message whose checksum is not its own, counts it, and goes on with its sender", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, groupsPerBatch: 1 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    const peer = connectPeer(addresses, "p");
    await peer.hello(8);
    await until(() => peer.tasks.length === 1);
    const { header, tensors } = groupToWire(answer(peer.tasks[0]!, weights(0).version, "p"));
    const frames = encode(header, tensors);
    const sum = Buffer.from([1, 2, 3, 4]);
    await peer.socket.send([...frames, sum]); // another sum
    await peer.socket.send([...frames]); // none
    await peer.socket.send([Buffer.alloc(0)]);
    await peer.answer(answer(peer.tasks[0]!, weights(0).version, "p"));
    expect((await dispatcher.batch(0)).groups).toHaveLength(1);
    expect(dispatcher.stats()).toMatchObject({ messages_damaged: 3, groups_received: 1 });
    expect(dispatcher.stats()["messages_malformed"]).toBeUndefined();
  });

  it("is closed to an actor without room for a group, which is counted", async () => {
    const { dispatcher, addresses } = await startDispatcher();
    const peer = connectPeer(addresses, "p");
    await peer.hello(1);
    await until(() => peer.messages.length === 1);
    expect(peer.messages[0]).toMatchObject({ type: "refused", fatal: true });
    expect(dispatcher.stats()).toMatchObject({ actors_refused_capacity: 1, actors_live: 0 });
  });

  it("refuses a message of more frames than any has", async () => {
    const { dispatcher, addresses } = await startDispatcher();
    const peer = connectPeer(addresses, "p");
    await peer.hello(8);
    await peer.socket.send([...encode(heartbeat), ...Array.from({ length: 100 }, () => Buffer.alloc(10))]);
    await until(() => dispatcher.stats()["messages_malformed"] === 1);
    expect(dispatcher.stats()["actors_live"]).toBe(1);
  });
});

/** Names a, b, …, aa, ab, … */
function counterNames(count: number): string[] {
  return Array.from({ length: count }, (_, i) =>
    i.toString(26).replace(/./g, (d) => "abcdefghijklmnopqrstuvwxyz"[parseInt(d, 26)]!),
  );
}

describe("dynamic sampling", () => {
  it("replaces groups of equal rewards by fresh tasks of the same batch, at most max_rounds times", async () => {
    const { dispatcher, addresses } = await startDispatcher({ maxStaleness: 0, maxReplacements: 2 });
    dispatcher.publish(weights(0).packed, weights(0).version);
    // Place 0 always earns equal rewards, place 1 the first time only.
    const equal = (id: string) => id.startsWith("b0-0") || id === "b0-1";
    startActor(addresses, new FakeEngine(), {
      score: async (task, generated, id) => scored(task.taskId, generated, id, equal(task.taskId)),
    });
    const { tasks, groups, filteredGroups } = await dispatcher.batch(0);
    expect(tasks.map((t) => t.taskId)).toEqual(["b0-0-r2", "b0-1-r1", "b0-2", "b0-3"]);
    expect(groups.map((g) => g.taskId)).toEqual(tasks.map((t) => t.taskId));
    expect(filteredGroups).toBe(3);
    expect(dispatcher.stats()["groups_filtered"]).toBe(3);
  });
});

describe("serial source", () => {
  it("gives the groups a dispatcher with two actors gives, batch by batch, strictly on-policy", async () => {
    const fields = { maxReplacements: 1, maxStaleness: 0 };
    const { dispatcher, addresses } = await startDispatcher(fields);
    const score = async (task: Task, generated: Parameters<typeof scored>[1], id: string) =>
      scored(task.taskId, generated, id, task.taskId.endsWith("-1"));
    startActor(addresses, new FakeEngine(), { score });
    startActor(addresses, new FakeEngine(), { score });
    const evalTasks = () =>
      [0, 1].map((i) => makeTask(`e${i}`, { kind: "eval", batch: 2, groupSize: 1, minIteration: 2 }));
    const engine = new FakeEngine();
    const serial = new SerialSource({ ...ledgerOptions(fields), engine, maxRows: 6, score, evalTasks });
    later(() => serial.close());
    for (let k = 0; k < 3; k++) {
      const { packed, version } = weights(k);
      dispatcher.publish(packed, version);
      expect(await serial.publish(packed, k)).toEqual(version);
      const [remote, alone] = [await dispatcher.batch(k), await serial.batch(k)];
      expect(alone.tasks).toEqual(remote.tasks);
      expect(alone.groups).toEqual(remote.groups.map((g) => ({ ...g, actorId: "serial" })));
      expect(alone.filteredGroups).toBe(1);
      for (const c of alone.groups.flatMap((g) => g.completions)) expect(c.version.iteration).toBe(k);
    }
    const progress: [number, number][] = [];
    const request = { iteration: 2, mode: "sampled", n: 2, purpose: "eval" } as const;
    const { tasks, groups } = await serial.evaluate(request, (done, total) => progress.push([done, total]));
    expect(groups.map((g) => g.taskId)).toEqual(["e0", "e1"]);
    expect(tasks.map((task) => task.taskId)).toEqual(["e0", "e1"]);
    expect([progress[0], progress.at(-1)]).toEqual([
      [0, 2],
      [2, 2],
    ]);
  });
});

describe("addresses", () => {
  it("a used port gives a message that names it and the way out", async () => {
    const { addresses, cleanup } = resolveAddresses("ipc");
    later(cleanup);
    const router = await bindRouter(addresses.work.replace(/^ipc:.*/, "tcp://127.0.0.1:*"));
    later(() => router.close());
    const used = router.lastEndpoint!;
    await expect(bindRouter(used)).rejects.toThrow(UserError);
    await expect(bindRouter(used)).rejects.toThrow(new RegExp(`${used}: expected a free port.*--transport.address`));
  });

  it("only ipc and loopback are accepted, weights on the next port", () => {
    expect(resolveAddresses("tcp://127.0.0.1:5000").addresses).toEqual({
      work: "tcp://127.0.0.1:5000",
      weights: "tcp://127.0.0.1:5001",
    });
    for (const bad of [
      "tcp://10.0.0.1:5000",
      "tcp://0.0.0.0:5000",
      "tcp://*:5000",
      "tcp://127.0.0.1",
      "tcp://127.0.0.1:65535",
      "udp://x",
    ])
      expect(() => resolveAddresses(bad)).toThrow(UserError);
  });

  it("ipc paths fit a unix socket even under a long TMPDIR", () => {
    const before = process.env["TMPDIR"];
    process.env["TMPDIR"] = `/tmp/${"long".repeat(30)}`;
    later(() => (before === undefined ? delete process.env["TMPDIR"] : (process.env["TMPDIR"] = before)));
    const { addresses, cleanup } = resolveAddresses("ipc");
    later(cleanup);
    expect(addresses.weights.replace("ipc://", "").length).toBeLessThanOrEqual(107);
  });
});
