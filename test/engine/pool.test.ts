/**
 * Who gets which request, and what becomes of those that nobody can answer: engines are stand-ins
 * that only record.
 */
import { EventEmitter } from "node:events";
import { describe, expect, test } from "vitest";
import type { GeneratedGroup, GenerateRequest } from "../../src/engine/engine-types.js";
import type { FromEngine, ToEngine } from "../../src/engine/engine-thread.js";
import { Cancelled, EnginePool } from "../../src/engine/pool.js";

class StandIn extends EventEmitter {
  readonly received: ToEngine[] = [];
  postMessage(message: ToEngine): void {
    this.received.push(message);
  }
  get submitted(): string[] {
    return this.received.flatMap((message) => (message.type === "submit" ? [message.request.requestId] : []));
  }
  answer(requestId: string): void {
    const group: GeneratedGroup = { requestId, completions: [], timing: { queuedMs: 0, prefillMs: 0, decodeMs: 0 } };
    this.say({ type: "stepped", steps: 1, groups: [group], streamed: [] });
  }
  say(message: FromEngine): void {
    this.emit("message", message);
  }
}

const request = (requestId: string, groupSize: number): GenerateRequest => ({
  requestId,
  promptIds: Int32Array.of(1),
  groupSize,
  seed: 0n,
  sampling: { temperature: 1, maxNewTokens: 1, stopIds: [] },
});
/** Two engines of 4 rows. */
function two() {
  const engines = [new StandIn(), new StandIn()] as const;
  const pool = new EnginePool(engines, 4);
  const ask = (id: string, rows: number) => {
    const answer = pool.generate(request(id, rows));
    answer.catch(() => {}); // each test looks at those it expects
    return answer;
  };
  return { engines, pool, ask };
}

describe("a pool of engines", () => {
  test("the engine with the fewest rows is next; each gets two batches at most, the rest waits in order", async () => {
    const { engines, pool, ask } = two();
    const answers = ["a", "b", "c", "d", "e", "f"].map((id) => ask(id, 4));
    expect(engines.map(({ submitted }) => submitted)).toEqual([
      ["a", "c"],
      ["b", "d"],
    ]);
    expect(pool.rows).toBe(24);
    engines[1].answer("b");
    expect((await answers[1]!).requestId).toBe("b");
    expect(engines[1].submitted).toEqual(["b", "d", "e"]);
    expect(engines[0].submitted).toEqual(["a", "c"]);
    expect(pool.rows).toBe(20);
  });

  test("what is cancelled leaves the queue, or its engine, and makes room", async () => {
    const { engines, pool, ask } = two();
    const answers = ["a", "b", "c", "d", "e", "f"].map((id) => ask(id, 4));
    pool.cancel("e");
    await expect(answers[4]).rejects.toThrow(Cancelled);
    pool.cancel("a");
    await expect(answers[0]).rejects.toThrow(Cancelled);
    expect(engines[0].received.slice(2)).toEqual([
      { type: "cancel", requestId: "a" },
      { type: "submit", request: request("f", 4) },
    ]);
    expect(engines[1].submitted).toEqual(["b", "d"]);
    pool.cancel("unknown");
    expect(pool.rows).toBe(16);
  });

  test("tokens reach the request that streams; one completion is ended where it runs", () => {
    const { engines, pool } = two();
    const seen: number[][] = [];
    void pool.generate(request("a", 2), ({ completion, ids }) => {
      seen.push([completion, ...ids]);
      if (ids.includes(9)) pool.endCompletion("a", completion);
    });
    const tokens = (completion: number, id: number) => ({
      requestId: "a",
      completion,
      ids: Int32Array.of(id),
      logprobs: Float32Array.of(0),
    });
    engines[0].say({ type: "stepped", steps: 1, groups: [], streamed: [tokens(0, 5), tokens(1, 9)] });
    expect(seen).toEqual([
      [0, 5],
      [1, 9],
    ]);
    expect(engines[0].received.at(-1)).toEqual({ type: "cancel", requestId: "a", completion: 1 });
  });

  test.each<[string, (engine: StandIn) => unknown, RegExp]>([
    [
      "fails",
      (engine) => engine.say({ type: "failed", message: "no memory", user: false }),
      /the engine failed: no memory/,
    ],
    ["crashes", (engine) => engine.emit("error", new Error("segfault")), /segfault/],
    ["ends by itself", (engine) => engine.emit("exit"), /ended by itself/],
  ])(
    "an engine that %s: every request is told, also those of the others and later ones",
    async (_, happen, message) => {
      const { engines, pool, ask } = two();
      const answers = ["a", "b", "c", "d", "e"].map((id) => ask(id, 4));
      happen(engines[1]);
      for (const answer of [...answers, ask("late", 1), pool.failed]) await expect(answer).rejects.toThrow(message);
      expect(pool.rows).toBe(0);
    },
  );

  test("stopped, its threads may end", async () => {
    const { engines, pool } = two();
    const stopped = pool.stop();
    for (const engine of engines) {
      expect(engine.received).toEqual([{ type: "stop" }]);
      engine.emit("exit");
    }
    await stopped;
    const late = Promise.race([pool.failed, Promise.resolve("well")]);
    expect(await late).toBe("well");
  });
});
