import { describe, expect, test } from "vitest";
import { runConfigSchema } from "../../src/config/schema.js";
import { assignDevices } from "../../src/launcher/assign-devices.js";

describe("assignment", () => {
  const plan = (gpus: string[], actors: object = {}, learner: object = {}, serial = false) =>
    assignDevices(gpus, runConfigSchema.parse({ actors: { device: "cuda", ...actors }, learner }), serial);

  test("without a GPU everybody computes on the CPU", () => {
    expect(plan([], { num: 2 })).toEqual({ learner: null, actors: [null, null] });
  });

  test("one GPU is shared by all", () => {
    expect(plan(["0"], { num: 2 })).toEqual({ learner: "0", actors: ["0", "0"] });
  });

  test("of several the learner has the first to itself, actors the rest", () => {
    expect(plan(["0", "1"], { num: 1 })).toEqual({ learner: "0", actors: ["1"] });
    expect(plan(["a", "b", "c", "d"], { num: 3 })).toEqual({ learner: "a", actors: ["b", "c", "d"] });
  });

  test("actors beyond the number of GPUs share, evenly", () => {
    expect(plan(["0", "1", "2"], { num: 5 }).actors).toEqual(["1", "2", "1", "2", "1"]);
  });

  test("a side on the CPU leaves its GPU to the other", () => {
    expect(plan(["0", "1"], { num: 2 }, { device: "cpu" })).toEqual({ learner: null, actors: ["0", "1"] });
    expect(plan(["0", "1"], { num: 2 }, { backend: "wasm" })).toEqual({ learner: null, actors: ["0", "1"] });
    expect(plan(["0", "1"], { num: 2, device: "cpu" })).toEqual({ learner: "0", actors: [null, null] });
  });

  test("serial: one process, one GPU", () => {
    expect(plan(["0", "1"], {}, {}, true)).toEqual({ learner: "0", actors: [] });
    expect(plan(["0"], { device: "cpu" }, { device: "cpu" }, true)).toEqual({ learner: null, actors: [] });
  });
});
