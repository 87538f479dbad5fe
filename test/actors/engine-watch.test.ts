import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { EngineWatch } from "../../src/actors/engine-watch.js";

test("an engine that neither moves nor computes hangs; one that computes or moves does not", async () => {
  const still = new EngineWatch(1_000);
  expect(still.hung(performance.now())).toBeNull();
  await sleep(1_100);
  expect(still.hung(performance.now())).toBe(1);
  still.mark();
  expect(still.hung(performance.now())).toBeNull();
  const busy = new EngineWatch(200);
  const end = performance.now() + 400;
  while (performance.now() < end);
  // the time of other processes does not count as its own: it has computed for a tenth at least
  expect(busy.hung(performance.now())).toBeNull();
});
