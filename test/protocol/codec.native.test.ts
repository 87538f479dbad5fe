import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  ProtocolError,
  decode,
  encode,
  groupFromWire,
  groupToWire,
  joinFrames,
  splitFrames,
  taskFromWire,
  taskToWire,
} from "../../src/protocol/codec.js";
import type { Completion, Task, TrajectoryGroup } from "../../src/protocol/messages.js";
import { taskSeed } from "../../src/protocol/seeds.js";
import { fromActor, fromLearner, groupHeader, taskHeader } from "../../src/protocol/wire-schemas.js";
import { answer, makeTask, weights } from "../support/rollout-fixtures.js";

const { version } = weights(3);
const sha256 = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((b) => Buffer.from(b).toString("hex"));

const tasks: fc.Arbitrary<Task> = fc.record({
  taskId: fc.string({ minLength: 1, maxLength: 40 }),
  kind: fc.constantFrom("train", "eval"),
  batch: fc.nat(),
  promptIds: fc.array(fc.nat(200_000), { minLength: 1 }).map((ids) => Int32Array.from(ids)),
  groupSize: fc.integer({ min: 1, max: 64 }),
  seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  minIteration: fc.nat(),
  sampling: fc.record({
    temperature: fc.double({ min: 0, max: 4, noNaN: true }),
    maxNewTokens: fc.integer({ min: 1, max: 4096 }),
    stopIds: fc.array(fc.nat(200_000)),
  }),
  problem: fc.record({ question: fc.string(), answer: fc.string() }),
});

const completions = fc
  .nat(5)
  .chain((length) =>
    fc.record({
      ids: fc.array(fc.nat(200_000), { minLength: length, maxLength: length }).map((ids) => Int32Array.from(ids)),
      behaviourLogprobs: fc
        .array(fc.float({ max: 0, noNaN: true, noDefaultInfinity: true }), { minLength: length, maxLength: length })
        .map((values) => Float32Array.from(values)),
      finishReason: fc.constantFrom("stop" as const, "length" as const),
      version: sha256.map((hash) => ({ iteration: 3, sha256: hash })),
      rewards: fc.record({
        correctness: fc.option(fc.double({ noNaN: true, noDefaultInfinity: true }).map((reward) => reward + 0)),
      }),
      rewardErrors: fc.array(fc.string()),
      outcome: fc.constantFrom("correct" as const, "wrong" as const, "unparsed" as const),
    }),
  );
const groups: fc.Arbitrary<TrajectoryGroup> = fc.record({
  taskId: fc.string({ minLength: 1, maxLength: 40 }),
  actorId: fc.string({ minLength: 1, maxLength: 40 }),
  timing: fc.constant({ queuedMs: 0.5, prefillMs: 1, decodeMs: 2 }),
  completions: fc.array(completions, { maxLength: 4 }),
});

/** As the network does it: bytes at any alignment. */
function shipped(frames: readonly Uint8Array[]): Buffer[] {
  return frames.map((frame) => Buffer.concat([Buffer.from("x"), frame]).subarray(1));
}

describe("codec", () => {
  it("any task survives the wire", () => {
    fc.assert(
      fc.property(tasks, (task) => {
        const wire = taskToWire(task);
        const { header, tensors } = decode(taskHeader, shipped(encode(wire.header, wire.tensors)));
        expect(taskFromWire(header, tensors)).toEqual(task);
      }),
    );
  });

  it("any trajectory group survives the wire and the journal's one-buffer form", () => {
    fc.assert(
      fc.property(groups, (group) => {
        const wire = groupToWire(group);
        const joined = joinFrames(encode(wire.header, wire.tensors));
        const { header, tensors } = decode(groupHeader, shipped(splitFrames(joined)));
        expect(groupFromWire(header, tensors)).toEqual(group);
      }),
    );
  });

  it("sends −0 as 0, a lone surrogate as U+FFFD, and leaves NaN and infinities to be refused", () => {
    const sent = answer(makeTask("t"), version);
    const shippedWith = (change: Partial<Completion>): Completion => {
      const completions = sent.completions.map((c) => ({ ...c, ...change }));
      const wire = groupToWire({ ...sent, completions });
      const { header, tensors } = decode(groupHeader, encode(wire.header, wire.tensors));
      return groupFromWire(header, tensors).completions[0]!;
    };
    expect(Object.is(shippedWith({ rewards: { correctness: -0 } }).rewards["correctness"], 0)).toBe(true);
    // short and long: MessagePack libraries write the two in different ways
    for (const filler of ["", "x".repeat(500)]) {
      const { rewardErrors } = shippedWith({ rewardErrors: [`${filler}\ud800`, `\udc00${filler}`, `${filler}😀`] });
      expect(rewardErrors).toEqual([`${filler}\ufffd`, `\ufffd${filler}`, `${filler}😀`]);
    }
    for (const bad of [NaN, Infinity, -Infinity])
      expect(() => shippedWith({ rewards: { correctness: bad } })).toThrow(ProtocolError);
    const zero = shippedWith({ behaviourLogprobs: new Float32Array(sent.completions[0]!.ids.length).fill(-0) });
    expect(zero.behaviourLogprobs.every((value) => Object.is(value, -0))).toBe(true);
  });

  it("no garbage passes, and none raises anything but a ProtocolError", () => {
    const wire = groupToWire(answer(makeTask("t"), version));
    const frames = encode(wire.header, wire.tensors);
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 4 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (garbage, place, flip) => {
          expect(() => decode(fromActor, garbage)).toThrow(ProtocolError);
          const damaged = Buffer.from(frames[0]!);
          damaged[place % damaged.length]! ^= flip;
          try {
            const { header, tensors } = decode(groupHeader, [damaged, ...frames.slice(1)]);
            groupFromWire(header, tensors);
          } catch (error) {
            expect(error).toBeInstanceOf(ProtocolError);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  it("refuses tensors that disagree with their header", () => {
    const { header, tensors } = groupToWire(answer(makeTask("t"), version));
    const [ids, logprobs] = tensors.map((t) => Buffer.from(t.buffer as ArrayBuffer)) as [Buffer, Buffer];
    expect(() => groupFromWire(header, [ids])).toThrow("expected 2 tensor frames, found 1");
    expect(() => groupFromWire(header, [ids.subarray(4), logprobs])).toThrow(/expected \d+ tokens/);
    expect(() => groupFromWire(header, [ids.subarray(1), logprobs])).toThrow("4-byte elements");
    for (const bad of [NaN, -Infinity, 0.5]) {
      const values = new Float32Array(logprobs.length / 4).fill(-1);
      values[1] = bad;
      expect(() => groupFromWire(header, [ids, Buffer.from(values.buffer)])).toThrow("expected logprobs ≤ 0");
    }
    const unversioned = {
      ...header,
      completions: header.completions.map((c) =>
        Object.fromEntries(Object.entries(c).filter(([key]) => key !== "version")),
      ),
    };
    expect(() => decode(fromActor, encode(unversioned))).toThrow("version");
  });

  it("names the task of a malformed answer, so that it can be asked again", () => {
    const { header } = groupToWire(answer(makeTask("t9"), version));
    try {
      decode(fromActor, encode({ ...header, completions: "none" }));
      expect.unreachable();
    } catch (error) {
      expect((error as ProtocolError).taskId).toBe("t9");
    }
  });

  it("refuses another protocol version by name, and unknown fields", () => {
    const hello = { type: "hello", token: "t", pid: 1, index: 0, capacity: 8 };
    expect(decode(fromActor, encode(hello)).header).toEqual(hello);
    expect(() => decode(fromActor, encode({ ...hello, protocol: 99 }))).toThrow(
      "expected protocol version 2, found 99",
    );
    expect(() => decode(fromActor, encode({ ...hello, extra: 1 }))).toThrow(ProtocolError);
    expect(() => decode(fromLearner, encode(hello))).toThrow(ProtocolError);
  });

  it("task seeds are the first 8 bytes of sha256(<run seed>/<task id>)", () => {
    // printf '42/b000000-0000' | sha256sum
    expect(taskSeed(42, "b000000-0000").toString(16).padStart(16, "0")).toBe("1e941ab1007b8f52");
    expect(taskSeed(42, "b000000-0001")).not.toBe(taskSeed(42, "b000000-0000"));
    expect(taskSeed(43, "b000000-0000")).not.toBe(taskSeed(42, "b000000-0000"));
  });
});
