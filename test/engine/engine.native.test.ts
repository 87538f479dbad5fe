import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { OrtEngine } from "../../src/engine/engine.js";
import type { EngineOptions, GeneratedGroup, GenerateRequest, StreamedTokens } from "../../src/engine/engine-types.js";
import { UserError } from "../../src/errors.js";
import { parseModelConfig, type ModelConfig } from "../../src/model/config.js";
import { layoutSize, weightLayout } from "../../src/model/layout.js";
import { hashPacked } from "../../src/model/identity.js";

interface GoldenGroup {
  prompt: number[];
  temperature: number;
  stopIds: number[];
  seed: string;
  completions: { ids: number[]; logprobs: number[]; margin: number }[];
}
/** Made by test/reference/qwen2_reference.py. */
const golden = JSON.parse(readFileSync(new URL("../golden/engine.json", import.meta.url), "utf8")) as {
  shape: Record<string, number>;
  newTokens: number;
  qwen2: { groups: GoldenGroup[] };
  llama: { groups: GoldenGroup[] };
};
const architectures = ["qwen2", "llama"] as const;

function configOf(type: "qwen2" | "llama"): ModelConfig {
  return parseModelConfig({ ...golden.shape, model_type: type, tie_word_embeddings: type === "qwen2" }, "test");
}

/** The formula of qwen2_reference.py: Murmur3's finalizer of the index, scaled. */
function packedWeights(config: ModelConfig): Float32Array {
  const layout = weightLayout(config);
  const packed = new Float32Array(layoutSize(layout));
  for (const { name, offset, size } of layout) {
    for (let index = offset; index < offset + size; index++) {
      let x = Math.imul(index ^ (index >>> 16), 0x85ebca6b);
      x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
      const noise = ((x ^ (x >>> 16)) >>> 0) / 2 ** 32 - 0.5;
      packed[index] = name.includes("norm") ? 1 + 0.4 * noise : 0.5 * noise;
    }
  }
  return packed;
}

function requestOf(group: GoldenGroup, index: number, forced: boolean): GenerateRequest {
  return {
    requestId: `g${index}`,
    promptIds: Int32Array.from(group.prompt),
    groupSize: group.completions.length,
    seed: BigInt(group.seed),
    sampling: { temperature: group.temperature, maxNewTokens: golden.newTokens, stopIds: group.stopIds },
    ...(forced ? { forced: group.completions.map(({ ids }) => Int32Array.from(ids)) } : {}),
  };
}

async function runAll(engine: OrtEngine, requests: readonly GenerateRequest[]): Promise<Map<string, GeneratedGroup>> {
  for (const request of requests) engine.submit(request);
  const groups = new Map<string, GeneratedGroup>();
  while (engine.pending > 0) for (const group of await engine.step()) groups.set(group.requestId, group);
  return groups;
}

function worstGap(group: GeneratedGroup, reference: GoldenGroup): number {
  let worst = 0;
  group.completions.forEach(({ logprobs }, c) => {
    const expected = reference.completions[c]!.logprobs;
    expect(logprobs).toHaveLength(expected.length);
    expected.forEach((value, t) => (worst = Math.max(worst, Math.abs(value - logprobs[t]!))));
  });
  return worst;
}

// 12 rows in five groups: all at once (weights as first operands), or three at a time so that rows
// enter while others are in flight.
const settings: EngineOptions[] = [
  { threads: 1, maxRows: 16, segmentLength: 16 },
  { threads: 1, maxRows: 16, segmentLength: 4 },
  { threads: 2, maxRows: 5, segmentLength: 3 },
  { threads: 1, maxRows: 16, segmentLength: 4, fused: true },
  { threads: 1, maxRows: 5, segmentLength: 3, fused: true },
];

describe.each(architectures)("%s against transformers", (type) => {
  const config = configOf(type);
  const { groups } = golden[type];
  describe.each(settings)("rows $maxRows, segments of $segmentLength, fused $fused", (options) => {
    let engine: OrtEngine;
    beforeAll(async () => {
      engine = await OrtEngine.create(config, options);
      await engine.load(packedWeights(config), 3);
    });
    afterAll(() => engine.dispose());

    it("forced tokens have the reference's logprobs", async () => {
      const results = await runAll(
        engine,
        groups.map((group, i) => requestOf(group, i, true)),
      );
      for (const [i, group] of groups.entries()) {
        const result = results.get(`g${i}`)!;
        expect(result.completions.map(({ ids }) => [...ids])).toEqual(group.completions.map(({ ids }) => ids));
        expect(worstGap(result, group)).toBeLessThan(1e-5);
      }
    });

    it("sampled and greedy tokens, finish reasons and logprobs equal a plain inverse CDF over the reference", async () => {
      const results = await runAll(
        engine,
        groups.map((group, i) => requestOf(group, i, false)),
      );
      for (const [i, group] of groups.entries()) {
        const result = results.get(`g${i}`)!;
        for (const [c, expected] of group.completions.entries()) {
          expect(expected.margin).toBeGreaterThan(1e-5); // else the reference itself would be ambiguous
          const completion = result.completions[c]!;
          expect([...completion.ids]).toEqual(expected.ids);
          const stopped = group.stopIds.includes(expected.ids.at(-1)!);
          expect(completion.finishReason).toBe(stopped ? "stop" : "length");
          expect(completion.version).toEqual(engine.version);
        }
        expect(worstGap(result, group)).toBeLessThan(1e-5);
      }
    });
  });
});

describe("the engine", () => {
  const config = configOf("qwen2");
  const packed = packedWeights(config);
  let engine: OrtEngine;
  beforeAll(async () => {
    engine = await OrtEngine.create(config, { threads: 1, maxRows: 6, segmentLength: 4 });
    await engine.load(packed, 0);
  });
  afterAll(() => engine.dispose());
  const request = (over: Partial<GenerateRequest> = {}): GenerateRequest => ({
    requestId: "r",
    promptIds: Int32Array.of(5, 9, 2),
    groupSize: 2,
    seed: 77n,
    sampling: { temperature: 1, maxNewTokens: 9, stopIds: [] },
    ...over,
  });

  it("gives a request the same tokens and logprobs whatever else is in flight", async () => {
    const alone = (await runAll(engine, [request()])).get("r")!;
    const others = [1, 2, 3, 4].map((n) =>
      request({
        requestId: `o${n}`,
        promptIds: Int32Array.from({ length: 4 * n }, (_, i) => i),
        groupSize: n,
        seed: BigInt(n),
      }),
    );
    const mixed = (await runAll(engine, [...others.slice(0, 2), request(), ...others.slice(2)])).get("r")!;
    mixed.completions.forEach((completion, c) => {
      expect([...completion.ids]).toEqual([...alone.completions[c]!.ids]);
      completion.logprobs.forEach((value, t) => expect(value).toBeCloseTo(alone.completions[c]!.logprobs[t]!, 5));
    });
  });

  it("ends a completion with the first stop id, which is its last token", async () => {
    const free = (await runAll(engine, [request()])).get("r")!.completions[0]!;
    const stop = free.ids[5]!;
    const stopped = (
      await runAll(engine, [request({ sampling: { temperature: 1, maxNewTokens: 9, stopIds: [102, stop] } })])
    ).get("r")!.completions[0]!;
    const end = free.ids.indexOf(stop) + 1;
    expect([...stopped.ids]).toEqual(Array.from(free.ids.subarray(0, end)));
    expect(stopped.finishReason).toBe("stop");
    expect(stopped.logprobs).toHaveLength(end);
    expect(free.ids).toHaveLength(9);
    expect(free.finishReason).toBe("length");
  });

  it("measures forced completions to their end: past stop ids, of unequal and of zero length", async () => {
    const forced = [Int32Array.of(4, 4, 8, 4, 1, 2, 3), Int32Array.of()];
    const sampling = { temperature: 1, maxNewTokens: 1, stopIds: [4] };
    const { completions } = (await runAll(engine, [request({ forced, sampling })])).get("r")!;
    expect(completions.map(({ ids }) => [...ids])).toEqual(forced.map((ids) => [...ids]));
    expect(completions.map(({ logprobs }) => logprobs.length)).toEqual([7, 0]);
  });

  it("names the weights it holds: a copy, hashed; other weights give other logprobs", async () => {
    const forced = [Int32Array.of(1, 2, 3), Int32Array.of(3, 2, 1)];
    const source = packed.slice();
    const before = await engine.load(source, 4);
    source.fill(0);
    expect(before).toEqual({ iteration: 4, sha256: hashPacked(packed, weightLayout(config)) });
    const first = (await runAll(engine, [request({ forced })])).get("r")!.completions[0]!;
    const after = await engine.load(
      packed.map((x) => x * 1.01),
      5,
    );
    expect(after.sha256).not.toBe(before.sha256);
    const second = (await runAll(engine, [request({ forced })])).get("r")!.completions[0]!;
    expect(second.version).toEqual(after);
    expect(Math.abs(second.logprobs[1]! - first.logprobs[1]!)).toBeGreaterThan(1e-3);
    await engine.load(packed, 0);
  });

  it("keeps groups whole and in order, counts what is pending, and refuses new weights in flight", async () => {
    for (const requestId of ["a", "b", "c", "d"]) engine.submit(request({ requestId }));
    expect(engine.pending).toBe(4); // queued requests
    expect(await engine.step()).toEqual([]);
    expect(engine.pending).toBe(3 * 2 + 1); // three groups of two rows fill the batch, one waits
    await expect(engine.load(packed, 1)).rejects.toThrow(/in flight/);
    const order: string[] = [];
    while (engine.pending > 0) for (const group of await engine.step()) order.push(group.requestId);
    expect(order).toEqual(["a", "b", "c", "d"]);
  });

  it("fills free places with a part of a group, whose other rows follow", async () => {
    const four = ["a", "b"].map((requestId, i) => request({ requestId, groupSize: 4, seed: BigInt(i) }));
    const alone = [await runAll(engine, [four[0]!]), await runAll(engine, [four[1]!])];
    for (const one of four) engine.submit(one);
    expect(await engine.step()).toEqual([]);
    expect(engine.pending).toBe(4 + 4); // two of b's rows have started, so it is no longer a queued request
    const groups = new Map<string, GeneratedGroup>();
    while (engine.pending > 0) for (const group of await engine.step()) groups.set(group.requestId, group);
    expect([...groups.keys()]).toEqual(["a", "b"]);
    for (const [i, { requestId }] of four.entries()) {
      const expected = alone[i]!.get(requestId)!.completions.map(({ ids }) => [...ids]);
      expect(groups.get(requestId)!.completions.map(({ ids }) => [...ids])).toEqual(expected);
    }
  });

  it("streams what the group then has whole, and tells the most probable tokens", async () => {
    const greedy = { temperature: 0, maxNewTokens: 9, stopIds: [] };
    const expected = (await runAll(engine, [request({ requestId: "g", sampling: greedy })])).get("g")!.completions[0]!;
    engine.submit(request({ requestId: "s", stream: true, top: true }));
    engine.submit(request({ requestId: "quiet", groupSize: 1 }));
    // the greedy completion, forced: each of its tokens is the most probable one
    engine.submit(request({ requestId: "f", groupSize: 1, forced: [expected.ids], top: true }));
    const pieces: StreamedTokens[] = [];
    const groups = new Map<string, GeneratedGroup>();
    while (engine.pending > 0) {
      for (const group of await engine.step()) groups.set(group.requestId, group);
      pieces.push(...engine.streamed());
    }
    expect(new Set(pieces.map(({ requestId }) => requestId))).toEqual(new Set(["s"]));
    expect(groups.get("quiet")!.completions[0]!.top).toBeUndefined();
    for (const [c, { ids, logprobs, top }] of groups.get("s")!.completions.entries()) {
      const own = pieces.filter((piece) => piece.completion === c);
      expect(own.length).toBe(2); // 9 tokens in segments of 4: the last one comes with the group
      expect(own.flatMap((piece) => [...piece.ids])).toEqual([...ids.subarray(0, 8)]);
      expect(own.flatMap((piece) => [...piece.logprobs])).toEqual([...logprobs.subarray(0, 8)]);
      expect(own.flatMap((piece) => [...piece.top!.ids])).toEqual([...top!.ids.subarray(0, 8)]);
      top!.logprobs.forEach((value, t) => expect(value).toBeGreaterThanOrEqual(logprobs[t]!));
    }
    const forced = groups.get("f")!.completions[0]!;
    expect([...forced.top!.ids]).toEqual([...expected.ids]);
    expect([...forced.top!.logprobs]).toEqual([...forced.logprobs]);
  });

  it("drops what is cancelled, queued or in flight, whole or one completion, and lets the rest be", async () => {
    const alone = (await runAll(engine, [request()])).get("r")!;
    for (const requestId of ["a", "b", "r", "queued"]) engine.submit(request({ requestId }));
    const groups = await engine.step();
    engine.cancel("a");
    engine.cancel("queued");
    engine.cancel("b", 1);
    engine.cancel("unknown");
    const running = engine.step();
    engine.cancel("b", 0); // while the graph runs
    groups.push(...(await running));
    while (engine.pending > 0) groups.push(...(await engine.step()));
    expect(groups.map(({ requestId }) => requestId)).toEqual(["b", "r"]);
    expect(groups[0]!.completions.map(({ ids, finishReason }) => [ids.length, finishReason])).toEqual([
      [4, "length"],
      [4, "length"],
    ]);
    expect(groups[1]!.completions.map(({ ids }) => [...ids])).toEqual(alone.completions.map(({ ids }) => [...ids]));
  });

  it.each([
    ["an empty prompt", { promptIds: Int32Array.of() }, /prompt is empty/],
    ["a prompt beyond the context", { promptIds: new Int32Array(56) }, /56 tokens and 9 new ones exceed.*64/],
    ["a group larger than the batch", { groupSize: 7 }, /num_generations 7 exceeds the 6 rows/],
    ["an unknown token", { promptIds: Int32Array.of(103) }, /103 is outside the vocabulary of 103/],
    ["a negative temperature", { sampling: { temperature: -1, maxNewTokens: 1, stopIds: [] } }, /temperature is -1/],
    ["no room for tokens", { sampling: { temperature: 1, maxNewTokens: 0, stopIds: [] } }, /maxNewTokens is 0/],
    ["forced completions of another number", { forced: [Int32Array.of(1)] }, /1 forced completions for a group of 2/],
  ])("refuses %s", (_, over, message) => {
    expect(() => engine.submit(request(over))).toThrow(UserError);
    expect(() => engine.submit(request(over))).toThrow(message);
    expect(engine.pending).toBe(0);
  });
});
