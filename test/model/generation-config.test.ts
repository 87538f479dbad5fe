/** generation_config.json: the temperature, and every setting that we do not apply by its name. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { UserError } from "../../src/errors.js";
import { notAppliedNote, readGenerationConfig } from "../../src/model/generation-config.js";

const folder = mkdtempSync(join(tmpdir(), "frl-generation-"));
afterAll(() => rmSync(folder, { recursive: true }));
const file = join(folder, "generation_config.json");
const read = (json: unknown) => {
  writeFileSync(file, JSON.stringify(json));
  return readGenerationConfig(folder);
};

test.each([
  [{}, 1],
  [{ temperature: 0.7 }, 0.7],
  [{ temperature: null }, 1],
  [{ do_sample: true, temperature: 0.7 }, 0.7],
  [{ do_sample: false, temperature: 0.7 }, 0],
])("the temperature of %j is %d", (json, temperature) => expect(read(json).temperature).toBe(temperature));

describe("a setting that is not applied", () => {
  test.each([
    ["repetition_penalty", 1.1, "1.1"],
    ["no_repeat_ngram_size", 3, "3"],
    ["num_beams", 4, "4"],
    ["min_new_tokens", 5, "5"],
    ["min_length", 5, "5"],
    ["suppress_tokens", [1, 2], "[1,2]"],
    ["bad_words_ids", [[7]], "[[7]]"],
    ["stop_strings", ["###"], '["###"]'],
    ["stop_strings", "###", '"###"'],
    ["forced_eos_token_id", 0, "0"],
  ])("is named for greedy decoding too: %s %j", (name, value, text) => {
    const found = read({ do_sample: false, [name]: value });
    const named = `asks for ${name} ${text}, which the sampler does not have`;
    expect(notAppliedNote(found, 0)).toContain(`${named}: decoding is greedy`);
    expect(notAppliedNote(found)).toContain(`${named}: sampling is by temperature alone`);
  });

  test.each([
    ["top_p", 0.8],
    ["top_k", 1],
    ["min_p", 0.1],
    ["typical_p", 0.9],
    ["epsilon_cutoff", 0.01],
  ])("is named for sampling alone: %s %d", (name, value) => {
    const found = read({ [name]: value });
    expect(notAppliedNote(found, 0)).toBeUndefined();
    expect(notAppliedNote(found, 0.5)).toContain(`${name} ${value}`);
  });

  test("is not named at the value where it does nothing", () => {
    const neutral = { top_p: 1, top_k: 0, repetition_penalty: 1, num_beams: 1, min_new_tokens: 0, stop_strings: null };
    expect(
      notAppliedNote(read({ ...neutral, suppress_tokens: [], bad_words_ids: null, max_length: 9 })),
    ).toBeUndefined();
  });
});

test.each([
  [{ temperature: "0.7" }, /generation_config\.json: .*[^]*expected number, received string[^]*at temperature/],
  [{ do_sample: 1 }, /expected boolean, received number[^]*at do_sample/],
  [[], /expected object, received array/],
])("%j is refused in words", (json, message) => {
  expect(() => read(json)).toThrow(UserError);
  expect(() => read(json)).toThrow(message);
});
