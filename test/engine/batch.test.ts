/** Continuous batching without a session: who starts, who is placed where, who leaves. */
import { describe, expect, test } from "vitest";
import { Batch, addToken, generatedGroup, inFlight } from "../../src/engine/batch.js";
import type { GenerateRequest } from "../../src/engine/engine-types.js";

const request = (requestId: string, groupSize: number, rest: Partial<GenerateRequest> = {}): GenerateRequest => ({
  requestId,
  promptIds: Int32Array.of(1, 2, 3),
  groupSize,
  seed: 0n,
  sampling: { temperature: 1, maxNewTokens: 2, stopIds: [9] },
  ...rest,
});
const none = { id: 0, logprob: 0 };
const names = (batch: Batch): string[] =>
  batch.arrange().rows.map(({ group, index }) => `${group.request.requestId}${index}`);
const batchOf = (maxRows: number, ...requests: GenerateRequest[]): Batch => {
  const batch = new Batch(maxRows);
  for (const one of requests) batch.add(one);
  return batch;
};

describe("a batch", () => {
  test("fills its places in the order asked, and a group may begin in two parts", () => {
    const batch = batchOf(4, request("a", 3), request("b", 3));
    expect(batch.pending).toBe(2);
    expect(batch.admit().map((group) => group.request.requestId)).toEqual(["a", "b"]);
    expect(names(batch)).toEqual(["a0", "a1", "a2", "b0"]);
    addToken(batch.active[0]!.completions[1]!, 9, -1, none);
    expect(batch.admit()).toEqual([]);
    expect(names(batch)).toEqual(["a0", "a2", "b0", "b1"]);
    expect(batch.pending).toBe(6);
  });

  test("ends a completion at a stop token or at its limit, and a forced one at its end only", () => {
    const batch = batchOf(8, request("a", 2), request("f", 1, { forced: [Int32Array.of(9, 4)] }));
    batch.admit();
    const [a, forced] = batch.active;
    addToken(a!.completions[0]!, 9, -0.5, none);
    for (const id of [4, 5]) addToken(a!.completions[1]!, id, -1, none);
    addToken(forced!.completions[0]!, 9, -1, none);
    expect(forced!.completions.map(inFlight)).toEqual([true]);
    expect(batch.takeComplete()).toEqual([a]);
    const version = { iteration: 3, sha256: "" };
    expect(generatedGroup(a!, version).completions).toEqual([
      { ids: Int32Array.of(9), logprobs: Float32Array.of(-0.5), finishReason: "stop", version },
      { ids: Int32Array.of(4, 5), logprobs: Float32Array.of(-1, -1), finishReason: "length", version },
    ]);
    expect(batch.pending).toBe(1);
  });

  test("drops a cancelled request, and ends a cancelled completion where it is", () => {
    const batch = batchOf(8, request("a", 2), request("b", 1));
    batch.admit();
    batch.cancel("b");
    batch.cancel("a", 0);
    batch.cancel("unknown", 5);
    expect(names(batch)).toEqual(["a1"]);
    batch.cancel("a", 1);
    expect(batch.takeComplete()).toHaveLength(1);
    expect(batch.pending).toBe(0);
  });

  test("reports new tokens of requests that stream, each once", () => {
    const batch = batchOf(8, request("s", 1, { stream: true, top: true }), request("q", 1));
    batch.admit();
    for (const group of batch.active) addToken(group.completions[0]!, 4, -1, { id: 6, logprob: -0.25 });
    const top = { ids: Int32Array.of(6), logprobs: Float32Array.of(-0.25) };
    expect(batch.streamed()).toEqual([
      { requestId: "s", completion: 0, ids: Int32Array.of(4), logprobs: Float32Array.of(-1), top },
    ]);
    expect(batch.streamed()).toEqual([]);
  });

  test("gives every completion one place in a block of its group", () => {
    const batch = batchOf(16, request("a", 5), request("b", 3));
    batch.admit();
    const { rows, blocks, blockRows, rowPlaces } = batch.arrange();
    const m = blockRows.length / blocks.length;
    rows.forEach((completion, row) => {
      const place = Number(rowPlaces[row]);
      expect(blockRows[place]).toBe(BigInt(row));
      expect(blocks[Math.floor(place / m)]).toBe(completion.group);
    });
  });
});
