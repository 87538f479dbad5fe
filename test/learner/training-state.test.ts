import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { UserError } from "../../src/errors.js";
import { Checkpoints } from "../../src/learner/training-state.js";
import { loadNewest, saveCheckpoint } from "../../src/run/checkpoint.js";

let run = "";
beforeEach(() => {
  run = mkdtempSync(join(tmpdir(), "state-"));
  return () => rmSync(run, { recursive: true });
});

const counters = { iteration: 2, wallSeconds: 5, trainSeconds: 4, before: {} };
const values = { ...counters, optimizerSteps: 2, klCoef: 0, skippedUpdates: 0 };
const two = Float32Array.of(1, 2);
const whole = { weights: two, adam_m: two, adam_v: two };

test("a checkpoint gives its counters and weights back", () => {
  saveCheckpoint(run, 2, () => {}, { vectors: whole, values });
  const read = new Checkpoints(
    run,
    loadNewest(run, () => {}),
  );
  expect(read.counters).toEqual(counters);
  expect(read.weights).toEqual(two);
});

test.each([
  [{ adam_m: two, adam_v: two }, "none, 2, 2"],
  [{ weights: two, adam_m: two }, "2, 2, none"],
  [{ ...whole, adam_v: Float32Array.of(1) }, "2, 2, 1"],
])("one without a vector, or with a shorter one, is refused by name", (vectors, found) => {
  saveCheckpoint(run, 2, () => {}, { vectors: vectors as Record<string, Float32Array>, values });
  const read = () =>
    new Checkpoints(
      run,
      loadNewest(run, () => {}),
    );
  expect(read).toThrow(UserError);
  expect(read).toThrow(
    `${run}/checkpoints/step-000002/training_state.safetensors: expected weights, adam_m and adam_v of one length, found ${found}.`,
  );
});

test("one whose values are of another form is refused by name", () => {
  saveCheckpoint(run, 2, () => {}, { vectors: whole, values: { ...values, iteration: -1 } });
  expect(
    () =>
      new Checkpoints(
        run,
        loadNewest(run, () => {}),
      ),
  ).toThrow(/checkpoints\/step-000002\/training_state\.json: expected another/);
});
