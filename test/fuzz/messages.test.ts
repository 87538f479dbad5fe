/**
 * Whatever comes through the learner's sockets is taken, or refused under exactly one counter, and
 * a good answer counts all the same afterwards. CHAOS=full: 120,000 messages.
 */
import { setImmediate } from "node:timers/promises";
import { Packr } from "msgpackr";
import { describe, expect, it, vi } from "vitest";
import type { Draw } from "../../src/math/random.js";
import { decode, groupToWire, taskFromWire } from "../../src/protocol/codec.js";
import { type Task, PROTOCOL_VERSION } from "../../src/protocol/messages.js";
import { sealed } from "../../src/protocol/sockets.js";
import { fromActor, fromLearner } from "../../src/protocol/wire-schemas.js";
import { readBatchFile, batchFile, journalBatches } from "../../src/run/journal.js";
import { Router } from "../support/fed-zeromq.js";
import { damageBytes, damageData, drawOf, inputName, randomBytes, residentMegabytes, sized } from "../support/fuzz.js";
import { TOKEN, answer, makeTask, startDispatcher, temporaryDirectory, weights } from "../support/rollout-fixtures.js";

vi.mock("zeromq", () => import("../support/fed-zeromq.js"));

const packr = new Packr({ useRecords: false });
const pack = (header: unknown): Buffer => Buffer.from(packr.pack(header));
const wire = (header: object): Buffer => pack({ protocol: PROTOCOL_VERSION, ...header });
const hello = (fields: object = {}) => ({ type: "hello", token: TOKEN, pid: 1, index: 0, capacity: 4, ...fields });
const heartbeat = (fields: object = {}) => ({
  type: "heartbeat",
  capacity: 4,
  version: weights(0).version,
  held: ["b0-0"],
  steps: 1,
  busyMs: 1,
  idleMs: 1,
  counters: { answers_refused: 1 },
  ...fields,
});

const GROUPS = 64;
/** Counters of messages: each message adds one to one of them. */
const OF_MESSAGES =
  /^(messages_|groups_(received|duplicate|refused_)|actors_(joined|lost|refused_)|weights_(requests_|chunks_served))/;

/** A learner's doors, with an actor that is asked and can answer rightly. */
async function openDoor() {
  const runDir = temporaryDirectory();
  let failure: unknown;
  const { dispatcher, ledger, addresses } = await startDispatcher(
    {
      runDir,
      groupsPerBatch: GROUPS,
      maxBatches: Infinity,
      onFatal: (error) => {
        failure = error;
        for (const router of Router.bound.values()) router.fail(error);
      },
    },
    { heartbeatMs: 1e8, silenceMs: 1e9 },
  );
  const work = Router.bound.get(addresses.work)!;
  const asked = new Map<string, Asked>();
  work.onSent = ([identity, ...frames]) => {
    const { header, tensors } = decode(fromLearner, frames.slice(0, -1) as Uint8Array[]);
    const holder = Buffer.from(identity as Uint8Array).toString("latin1");
    if (header.type === "task") asked.set(header.taskId, { task: taskFromWire(header, tensors), holder });
  };
  let iteration = 0;
  const publish = () => dispatcher.publish(weights(iteration).packed, weights(iteration).version);
  publish();
  const counted = () =>
    Object.entries(ledger.totals).reduce((n, [name, total]) => (OF_MESSAGES.test(name) ? n + total : n), 0);
  const send = async (frames: readonly Uint8Array[], from = "actor", router = work, isSealed = true) => {
    await router.deliver([Buffer.from(from, "latin1"), ...(isSealed ? sealed(frames) : frames)]);
    await setImmediate();
    if (failure !== undefined) throw failure;
  };
  /** The oldest task without an answer, and who was asked last. */
  const openTask = async (): Promise<Asked> => {
    if (ledger.book.finishedBatch(iteration) !== null) {
      iteration++;
      publish();
      await send([wire(hello())]);
    }
    for (const id of asked.keys()) if (ledger.book.find(id) === "finished") asked.delete(id);
    if (asked.size === 0) await send([wire(hello())]);
    return [...asked.values()][0]!;
  };
  const good = ({ task, holder }: Asked) => groupToWire(answer(task, weights(iteration).version, holder));
  const answerOne = async (open?: Asked) => {
    open ??= await openTask();
    const { header, tensors } = good(open);
    await send([wire(hello())], open.holder);
    const before = ledger.totals["groups_received"] ?? 0;
    await send([wire(header), ...bytesOf(tensors)], open.holder);
    expect(ledger.totals["groups_received"]).toBe(before + 1);
  };
  await send([wire(hello())]);
  const weightsDoor = Router.bound.get(addresses.weights)!;
  return {
    dispatcher,
    ledger,
    runDir,
    weightsDoor,
    send,
    openTask,
    good,
    answerOne,
    counted,
    version: () => iteration,
  };
}
interface Asked {
  readonly task: Task;
  readonly holder: string;
}
type Door = Awaited<ReturnType<typeof openDoor>>;

const bytesOf = (views: readonly ArrayBufferView[]): Buffer[] =>
  views.map((view) => Buffer.from(view.buffer, view.byteOffset, view.byteLength));

interface Spoilable {
  length: number;
  finishReason: string;
  version: { iteration: number; sha256: string };
  rewards: Record<string, unknown>;
  rewardErrors: string[];
  outcome: string;
}
/** A group on its way: ids and log-probabilities of its completions, one after another. */
interface Answer {
  header: { taskId: string; actorId: string; completions: Spoilable[] };
  ids: Int32Array;
  logprobs: Float32Array;
  frames?: Uint8Array[];
}
const MALFORMED = "groups_refused_malformed";
const first = (a: Answer) => a.header.completions[0]!;

/** What may be wrong with a group, the counter for it, and how it comes about. */
const kinds: readonly (readonly [name: string, counter: string, spoil: (a: Answer) => void])[] = [
  ["an id of the vocabulary's size", MALFORMED, (a) => (a.ids[0] = 100)],
  ["the largest id", MALFORMED, (a) => (a.ids[0] = 2 ** 31 - 1)],
  ["a negative id", MALFORMED, (a) => (a.ids[0] = -1)],
  ["a completion of no token", MALFORMED, (a) => resize(a, 0)],
  ["a length of -0", MALFORMED, (a) => resize(a, -0)],
  ["a completion that is too long", MALFORMED, (a) => resize(a, 5)],
  ["a stop token in the middle", MALFORMED, (a) => (resize(a, 3), a.ids.set([1, 0, 0]))],
  ["no stop token after all", MALFORMED, (a) => (resize(a, 2), a.ids.set([1, 1]))],
  ["a limit that was not reached", MALFORMED, (a) => (first(a).finishReason = "length")],
  ["another finish reason", MALFORMED, (a) => (first(a).finishReason = "abort")],
  ["no reward", MALFORMED, (a) => (first(a).rewards = {})],
  ["a surplus reward", MALFORMED, (a) => (first(a).rewards["more"] = 1)],
  ["a reward by another name", MALFORMED, (a) => (first(a).rewards = { "correctnes\ud800": 1 })],
  [
    "rewards under __proto__",
    MALFORMED,
    (a) => (first(a).rewards = JSON.parse('{"__proto__": 1}') as Record<string, unknown>),
  ],
  ["a reward that does not apply", "groups_received", (a) => (first(a).rewards["correctness"] = null)],
  ["a reward of -0", "groups_received", (a) => (first(a).rewards["correctness"] = -0)],
  ["a reward of 1e7", MALFORMED, (a) => (first(a).rewards["correctness"] = 1e7)],
  ["a reward of 1e308", MALFORMED, (a) => (first(a).rewards["correctness"] = -1e308)],
  ["a reward that is no number", MALFORMED, (a) => (first(a).rewards["correctness"] = NaN)],
  ["an infinite reward", MALFORMED, (a) => (first(a).rewards["correctness"] = Infinity)],
  ["a reward as text", MALFORMED, (a) => (first(a).rewards["correctness"] = "1")],
  ["a positive log-probability", MALFORMED, (a) => (a.logprobs[0] = 0.5)],
  ["a log-probability of -1e30", MALFORMED, (a) => (a.logprobs[0] = -1e30)],
  ["a log-probability that is no number", MALFORMED, (a) => (a.logprobs[0] = NaN)],
  ["an infinite log-probability", MALFORMED, (a) => (a.logprobs[0] = -Infinity)],
  ["a completion too few", MALFORMED, (a) => drop(a)],
  ["no completions", MALFORMED, (a) => (drop(a), drop(a))],
  ["a completion too many", MALFORMED, (a) => repeat(a)],
  ["a log-probability too few", MALFORMED, (a) => (a.logprobs = a.logprobs.slice(1))],
  ["half a log-probability", MALFORMED, (a) => (a.frames = [bytesOf([a.ids])[0]!, Buffer.alloc(6)])],
  ["no tensors", MALFORMED, (a) => (a.frames = [])],
  ["a frame too many", "messages_malformed", (a) => (a.frames = [...bytesOf([a.ids, a.logprobs]), Buffer.alloc(4)])],
  ["unknown weights", "groups_refused_unknown_weights", (a) => (first(a).version.sha256 = "f".repeat(64))],
  ["weights of the future", "groups_refused_unknown_weights", (a) => (first(a).version.iteration = 1e6)],
  ["weights that are too old", "groups_refused_stale", (a) => (first(a).version = weights(0).version)],
  ["a task that was not asked", "groups_refused_unknown_task", (a) => (a.header.taskId = "b3-63")],
  ["no task", "groups_refused_unknown_task", (a) => (a.header.taskId = "b0-0-r7")],
  ["a task answered before", "groups_duplicate", (a) => (a.header.taskId = "b0-0")],
  ["another actor's name", MALFORMED, (a) => (a.header.actorId = "actor-1")],
  ["an error text of 10,001 characters", MALFORMED, (a) => (first(a).rewardErrors = ["x".repeat(10_001)])],
  ["a lone surrogate in an error text", "groups_received", (a) => (first(a).rewardErrors = ["\ud800"])],
  ["another outcome", MALFORMED, (a) => (first(a).outcome = "right")],
  ["a field too many", MALFORMED, (a) => Object.assign(a.header, { kind: "eval" })],
];

function resize(a: Answer, length: number): void {
  const { length: old } = first(a);
  const fit = <T extends Int32Array | Float32Array>(values: T): T => {
    const rest = values.subarray(old);
    const longer = new (values.constructor as new (n: number) => T)(length + rest.length);
    longer.set(values.subarray(0, Math.min(old, length)));
    longer.set(rest, length);
    return longer;
  };
  [a.ids, a.logprobs] = [fit(a.ids), fit(a.logprobs)];
  first(a).length = length;
}

function drop(a: Answer): void {
  resize(a, 0);
  a.header.completions.shift();
}

function repeat(a: Answer): void {
  const { length } = first(a);
  a.header.completions.unshift(first(a));
  a.ids = Int32Array.of(...a.ids.subarray(0, length), ...a.ids);
  a.logprobs = Float32Array.of(...a.logprobs.subarray(0, length), ...a.logprobs);
}

function spoilt(door: Door, spoil: (a: Answer) => void, open: Asked): Buffer[] {
  const { header, tensors } = structuredClone(door.good(open));
  const a: Answer = { header, ids: tensors[0] as Int32Array, logprobs: tensors[1] as Float32Array };
  spoil(a);
  return [wire(a.header), ...(a.frames ?? [a.ids, a.logprobs]).flatMap((view) => bytesOf([view]))];
}

describe("well-formed bad groups", () => {
  it("are refused under the counter of their kind, and the task's right answer counts", async () => {
    const door = await openDoor();
    for (let n = 0; n < 2 * GROUPS; n++) await door.answerOne();
    for (const [name, counter, spoil] of kinds) {
      const open = await door.openTask();
      const before = door.ledger.totals;
      await door.send(spoilt(door, spoil, open));
      const after = door.ledger.totals;
      expect(after[counter], name).toBe((before[counter] ?? 0) + 1);
      if (counter !== "groups_received") await door.answerOne(open);
    }
    expect(door.ledger.totals["messages_malformed"]).toBe(1);
  });

  it("an evaluation is answered by its own weights alone, and by who was asked", async () => {
    const door = await openDoor();
    for (let n = 0; n < GROUPS; n++) await door.answerOne();
    await door.openTask(); // moves on to the next policy
    await door.send([wire(hello({ capacity: 1_000 }))]);
    const task = makeTask("e1", { kind: "eval", batch: door.version(), minIteration: door.version(), groupSize: 1 });
    const answered = door.dispatcher.evaluate([task], () => {});
    const older = answer(task, weights(0).version);
    const { header, tensors } = groupToWire(older);
    await door.send([wire(hello({ capacity: 1_000 }))], "other");
    await door.send([wire({ ...header, actorId: "other" }), ...bytesOf(tensors)], "other");
    expect(door.ledger.totals).toMatchObject({ groups_refused_unknown_task: 1 });
    await door.send([wire(header), ...bytesOf(tensors)]);
    expect(door.ledger.totals).toMatchObject({ groups_refused_stale: 1 });
    await door.answerOne({ task, holder: "actor" });
    expect(await answered).toHaveLength(1);
  });
});

const junk = [
  Buffer.alloc(0),
  Buffer.from([0xc1]),
  Buffer.from([0xdd, 0xff, 0xff, 0xff, 0xff]),
  Buffer.from([0xdf, 0x0c, 0x80, 0, 0, 0xc0]),
  Buffer.from([0xc9, 0xff, 0xff, 0xff, 0xff, 5]),
  Buffer.from([0xd4, 0, 1]),
  Buffer.from([0xd6, 0xff, 0, 0, 0, 0]),
  Buffer.from([0xdb, 0x7f, 0xff, 0xff, 0xff, 65]),
  Buffer.alloc(10_000, 0x91),
  Buffer.alloc(3_000, 0x81),
  Buffer.from([0x81, 0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0, 1]),
  pack({ ["__proto__"]: { protocol: 2 }, type: "hello" }),
  pack({ protocol: 2, type: "hello", taskId: { toString: 1 } }),
  pack({ protocol: 3, type: "hello" }),
  pack({ protocol: 2, type: "no such type", taskId: "b0-0" }),
  Buffer.alloc(1 << 21, 0xc0),
];

/** One hostile message: what it is called, its frames, and who sends it. */
function hostile(
  draw: Draw,
  door: Door,
  open: Asked,
): { what: string; frames: Buffer[]; from: string; toWeights?: boolean } {
  const from = draw.pick([open.holder, open.holder, "actor", "other", `stranger-${draw.int(0, 20)}`]);
  const groups = () => spoilt(door, () => {}, open);
  const real = (): Buffer[] =>
    draw.unit() < 0.5 ? groups() : [wire(draw.pick<object>([hello(), heartbeat(), { type: "bye", reason: "over" }]))];
  const fetch = { type: "fetch", token: TOKEN, sha256: weights(door.version()).version.sha256, chunk: 0 };
  switch (draw.int(0, 9)) {
    case 0:
      return {
        what: "random bytes",
        frames: Array.from({ length: draw.int(0, 5) }, () => randomBytes(draw, 200)),
        from,
      };
    case 1:
    case 2: {
      const frames = real();
      const at = draw.int(0, frames.length - 1);
      frames[at] = damageBytes(draw, frames[at]!);
      return { what: "a damaged frame", frames, from };
    }
    case 3: {
      const frames = real();
      const [i, j] = [draw.int(0, frames.length - 1), draw.int(0, frames.length - 1)];
      if (draw.unit() < 0.5) [frames[i], frames[j]] = [frames[j]!, frames[i]!];
      else frames.splice(i, draw.int(0, 1), ...Array.from({ length: draw.int(0, 3) }, () => frames[j]!));
      return { what: "frames swapped or doubled", frames, from };
    }
    case 4:
      return { what: "forged MessagePack", frames: [draw.pick(junk), ...groups().slice(1)], from };
    case 5: {
      const { header, tensors } = door.good(open);
      const one = draw.pick<object>([header, hello(), heartbeat()]);
      return {
        what: "a field of another type",
        frames: [wire(damageData(draw, one) as object), ...bytesOf(tensors)],
        from,
      };
    }
    case 6: {
      const token = draw.pick(["", "x", TOKEN.slice(1), TOKEN, "t".repeat(200)]);
      return { what: "a hello", frames: [wire(hello({ token, capacity: draw.int(1, 3) }))], from };
    }
    case 7: {
      const counters = Object.fromEntries(
        Array.from({ length: draw.int(0, 60) }, () => [
          draw.pick(["a", "__proto__", "constructor", "B", "x".repeat(61), `n_${"abc"[draw.int(0, 2)]}`]),
          draw.pick([0, -1, 1e308, NaN, 5]),
        ]),
      );
      const held = Array.from({ length: draw.int(0, 5) }, () => draw.pick(["b0-0", "b1-1", "", "x".repeat(201)]));
      const fields = { counters, held, steps: draw.pick([0, 2 ** 53 - 1, -1]), busyMs: draw.pick([0, 1e308, NaN]) };
      return { what: "odd counters", frames: [wire(heartbeat(fields))], from };
    }
    case 8: {
      const [name, , spoil] = draw.pick(kinds);
      return { what: name, frames: spoilt(door, spoil, open), from };
    }
    default: {
      const damaged = draw.unit() < 0.5 ? wire(damageData(draw, fetch) as object) : damageBytes(draw, wire(fetch));
      return { what: "a request for weights", frames: [damaged], from, toWeights: true };
    }
  }
}

/** Whether a message may be one that needs no counter: a heartbeat, or a second bye. */
function needsNoCounter(frames: readonly Buffer[]): boolean {
  if (frames.length > 3) return false;
  try {
    return ["heartbeat", "bye"].includes(decode(fromActor, frames).header.type);
  } catch {
    return false;
  }
}

describe("hostile messages", () => {
  const messages = sized(1_500, 120_000);
  it(
    `${messages} are each counted once, and a right answer is accepted after each`,
    { timeout: 1_800_000 },
    async () => {
      const door = await openDoor();
      await door.send([wire(hello())], "other");
      const atStart = await residentMegabytes();
      let accepted = 0;
      for (let n = 0; n < messages; n++) {
        const draw = drawOf(1, n);
        const open = await door.openTask();
        const message = hostile(draw, door, open);
        const before = door.counted();
        const isSealed = draw.unit() < 0.9;
        const at = message.toWeights === true ? door.weightsDoor : undefined;
        await door.send(message.frames, message.from, at, isSealed);
        const news = door.counted() - before;
        const name = inputName(n, message.what);
        if (message.toWeights !== true && isSealed && needsNoCounter(message.frames))
          expect(news, name).toBeLessThanOrEqual(1);
        else expect(news, name).toBe(1);
        if (door.ledger.book.find(open.task.taskId) === "finished") accepted++;
        else await door.answerOne(open);
      }
      expect(accepted).toBeLessThan(messages / 2);
      let records = 0;
      for (const k of journalBatches(`${door.runDir}/trajectories`)) {
        const batch = readBatchFile(batchFile(`${door.runDir}/trajectories`, k));
        expect(batch.damagedRecords + batch.tornBytes, `batch ${k}`).toBe(0);
        records += batch.records.length;
      }
      expect(records).toBe(door.ledger.totals["groups_received"]);
      const grown = (await residentMegabytes()) - atStart;
      console.log(`${messages} messages: ${JSON.stringify(door.ledger.totals)}, RSS +${grown.toFixed(0)} MB`);
      expect(grown).toBeLessThan(300);
    },
  );
});
