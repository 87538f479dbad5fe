import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { UserError, asUserError } from "../../src/errors.js";
import { listCheckpoints, resumable, saveCheckpoint } from "../../src/run/checkpoint.js";
import { checkpointFolder, checkpointsFolder } from "../../src/run/paths.js";

let run = "";
beforeEach(() => {
  run = mkdtempSync(join(tmpdir(), "checkpoint-"));
  return () => rmSync(run, { recursive: true });
});

const state = (step: number) => ({ vectors: { weights: Float32Array.of(step, -0, 0.1) }, values: { iteration: step } });
const writeModel = (folder: string) => writeFileSync(join(folder, "config.json"), "{}");
const save = (step: number) => saveCheckpoint(run, step, writeModel, state(step));
const notes: string[] = [];
const load = () => {
  notes.length = 0;
  return resumable(run, (note) => notes.push(note));
};

test("the newest checkpoint is read back bit for bit", () => {
  expect(load()).toBeNull();
  save(1);
  save(2);
  expect(load()).toEqual({ step: 2, state: state(2) });
  expect(notes).toEqual([]);
});

describe("damage is named and the checkpoint before it used", () => {
  const file = (name: string) => join(checkpointFolder(run, 2), name);
  const damages: Record<string, [RegExp, () => void]> = {
    "a longer file": [
      /training_state\.safetensors: expected sha256/,
      () => appendFileSync(file("training_state.safetensors"), "x"),
    ],
    "a file of the model": [/config\.json: expected sha256/, () => writeFileSync(file("config.json"), "{ }")],
    "a folder in its place": [
      /config\.json: expected sha256 .*, found no file/,
      () => {
        rmSync(file("config.json"));
        mkdirSync(file("config.json"));
      },
    ],
    "a missing file": [/config\.json: expected sha256 .*, found no file/, () => rmSync(file("config.json"))],
    "emptied checksums": [/expected a checksum of .*, found none/, () => writeFileSync(file("checksums.json"), "{}")],
    "checksums of another form": [/checksums\.json/, () => writeFileSync(file("checksums.json"), "[]")],
    "no checksums": [/checksums\.json/, () => rmSync(file("checksums.json"))],
    "checksums that are no JSON": [/checksums\.json/, () => writeFileSync(file("checksums.json"), '{"a":')],
    "a file more": [/expected a checksum of adapter\.json, found none/, () => writeFileSync(file("adapter.json"), "")],
  };
  test.each(Object.entries(damages))("%s", (_, [message, damage]) => {
    save(1);
    save(2);
    damage();
    expect(load()).toEqual({ step: 1, state: state(1) });
    expect(notes).toEqual([expect.stringMatching(message)]);
  });

  test("with none before it, the damage is the error", () => {
    save(2);
    writeFileSync(file("checksums.json"), "{}");
    expect(load).toThrow(UserError);
    expect(load).toThrow(/expected a checksum/);
  });

  test("the damaged one is replaced when its step is reached again", () => {
    save(1);
    save(2);
    writeFileSync(file("checksums.json"), "{}");
    save(2);
    expect(load()).toEqual({ step: 2, state: state(2) });
  });
});

test("what a killed process left is removed, and a failed save leaves nothing", () => {
  save(1);
  mkdirSync(`${checkpointFolder(run, 3)}.tmp-1/deep`, { recursive: true });
  expect(load()!.step).toBe(1);
  const fail = () => saveCheckpoint(run, 2, () => writeFileSync(join(run, "nowhere/file"), ""), state(2));
  expect(fail).toThrow(/ENOENT/);
  expect(readdirSync(checkpointsFolder(run))).toEqual(["step-000001"]);
  expect(listCheckpoints(run)).toEqual([1]);
  expect(existsSync(checkpointFolder(run, 1))).toBe(true);
});

test.each([
  ["ENOSPC", -28, "the disk is full"],
  ["Unknown system error -122", -122, "quota"],
  ["EROFS", -30, "read-only"],
  ["EMFILE", -24, "ulimit -n"],
  ["EACCES", -13, "permissions"],
])("%s of the system is told in words, with its file", (code, errno, words) => {
  const thrown = Object.assign(new Error(`${code}: write`), { code, errno, path: "/data/model.safetensors" });
  const told = asUserError(thrown);
  expect(told).toBeInstanceOf(UserError);
  expect((told as UserError).message).toMatch(new RegExp(`^/data/model.safetensors: .*${words}`));
});

test("a defect stays a defect", () => {
  const defect = new TypeError("x is not a function");
  expect(asUserError(defect)).toBe(defect);
});
