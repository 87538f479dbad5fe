/**
 * Actor, learner and transformers give the same numbers for the starter model (design: "same
 * numbers"). test/golden/starter.json holds transformers' values;
 * test/reference/starter_reference.py makes it.
 */
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { GeneratedGroup, GenerateRequest } from "../../src/engine/engine-types.js";
import { OrtEngine } from "../../src/engine/engine.js";
import { generateAll } from "../../src/engine/local.js";
import { startBackend } from "../../src/learner/backend/backend.js";
import { completionLogprobs, hiddenStates, prepareMicrobatch } from "../../src/learner/policy/policy.js";
import { splitFlat } from "../../src/learner/policy/named-weights.js";
import { readModelConfig } from "../../src/model/config.js";
import { weightLayout } from "../../src/model/layout.js";
import { loadPacked } from "../../src/model/model-weights.js";
import { cleanUp, reason, root, run, starter, temporary, unrunnable } from "../support/run.js";

interface Golden {
  model_sha256: string;
  stop_ids: number[];
  sampled: {
    prompt_ids: number[];
    temperature: number;
    seed: string;
    completions: { ids: number[]; logprobs: number[] }[];
  }[];
  greedy: { prompt_ids: number[]; completion_ids: number[] }[];
}
const golden = JSON.parse(readFileSync(join(root, "test/golden/starter.json"), "utf8")) as Golden;

/** Nats. */
const TOLERANCE = 1e-4;
const SEGMENT = 8;
const MAX_ROWS = 24;

afterAll(cleanUp);

describe.skipIf(unrunnable)(`64 completions of one mixed batch of the starter model${reason}`, () => {
  let engine: OrtEngine;
  let packed: Float32Array;
  const config = readModelConfig(starter);

  beforeAll(async () => {
    const found = createHash("sha256")
      .update(readFileSync(join(starter, "model.safetensors")))
      .digest("hex");
    if (found !== golden.model_sha256)
      throw new Error("test/golden/starter.json belongs to other weights: run test/reference/starter_reference.py");
    packed = loadPacked(starter, config);
    engine = await OrtEngine.create(config, { threads: 1, maxRows: MAX_ROWS, segmentLength: SEGMENT });
    await engine.load(packed, 0);
  });
  afterAll(() => engine?.dispose());

  const requests = (forced: boolean): GenerateRequest[] =>
    golden.sampled.map(({ prompt_ids: prompt, temperature, seed, completions }, i) => ({
      requestId: String(i),
      promptIds: Int32Array.from(prompt),
      groupSize: completions.length,
      seed: BigInt(seed),
      sampling: { temperature, maxNewTokens: 64, stopIds: golden.stop_ids },
      ...(forced && { forced: completions.map(({ ids }) => Int32Array.from(ids)) }),
    }));
  const logprobsOf = (groups: GeneratedGroup[]) => groups.map((g) => g.completions.map((c) => c.logprobs));

  /**
   * Largest difference to transformers over all tokens; every completion must have all of its
   * tokens.
   */
  function worstGap(found: readonly (readonly ArrayLike<number>[])[]): number {
    let worst = 0;
    golden.sampled.forEach(({ completions }, g) =>
      completions.forEach(({ logprobs }, c) => {
        expect(found[g]![c]!).toHaveLength(logprobs.length);
        logprobs.forEach((expected, t) => (worst = Math.max(worst, Math.abs(found[g]![c]![t]! - expected))));
      }),
    );
    return worst;
  }

  it("is mixed: prompt lengths, temperatures, rows over several segments, and more rows than fit at once", () => {
    const completions = golden.sampled.flatMap((group) => group.completions);
    expect(completions).toHaveLength(64);
    expect(completions.length).toBeGreaterThan(MAX_ROWS);
    expect(new Set(golden.sampled.map((group) => group.prompt_ids.length)).size).toBeGreaterThanOrEqual(3);
    expect(new Set(golden.sampled.map((group) => group.temperature))).toEqual(new Set([1, 0.7]));
    expect(completions.filter(({ ids }) => ids.length > 2 * SEGMENT).length).toBeGreaterThan(16);
  });

  it("the actor's forced log-probabilities are transformers'", async () => {
    expect(worstGap(logprobsOf(await generateAll(engine, requests(true))))).toBeLessThanOrEqual(TOLERANCE);
  });

  it("so are those it reports for what it samples, and the noise chooses the same tokens again", async () => {
    const groups = await generateAll(engine, requests(false));
    let same = 0;
    groups.forEach((group, g) =>
      group.completions.forEach(({ ids, logprobs }, c) => {
        const expected = golden.sampled[g]!.completions[c]!;
        if (ids.join() !== expected.ids.join()) return;
        same++;
        expected.logprobs.forEach((value, t) => expect(Math.abs(logprobs[t]! - value)).toBeLessThanOrEqual(TOLERANCE));
      }),
    );
    // another processor may round a uniform over a boundary
    expect(same).toBeGreaterThanOrEqual(63);
  });

  it("the learner's log-probabilities are transformers'", async () => {
    const { tf } = await startBackend("auto", 1);
    const tensors = splitFlat(tf, tf.tensor1d(packed), weightLayout(config));
    const found: Float32Array[][] = golden.sampled.map(() => []);
    for (const temperature of new Set(golden.sampled.map((group) => group.temperature))) {
      const members = golden.sampled.flatMap((group, g) => (group.temperature === temperature ? [{ group, g }] : []));
      const groups = members.map(({ group }) => ({
        promptIds: Int32Array.from(group.prompt_ids),
        completions: group.completions.map(({ ids }) => Int32Array.from(ids)),
      }));
      const batch = prepareMicrobatch(tf, config, groups);
      const weights = { tensors, lora: null };
      const hidden = hiddenStates(tf, config, weights, batch);
      // [M, 2]: log-probability and entropy of each completion token, in the order of the groups
      const values = (await completionLogprobs(tf, config, weights, hidden, batch, temperature).data()) as Float32Array;
      let next = 0;
      for (const { group, g } of members)
        for (const { ids } of group.completions) found[g]!.push(Float32Array.from(ids, () => values[2 * next++]!));
      expect(2 * next).toBe(values.length);
    }
    expect(worstGap(found)).toBeLessThanOrEqual(TOLERANCE);
  });

  it("both engines of `cli logprobs` print them", async () => {
    const members = golden.sampled.filter((group) => group.temperature === 0.7);
    const input = join(temporary(), "in.jsonl");
    const lines = members.flatMap(({ prompt_ids, completions }) =>
      completions.map(({ ids }) => JSON.stringify({ prompt_ids, completion_ids: ids })),
    );
    writeFileSync(input, `${lines.join("\n")}\n`);
    const expected = members.flatMap((group) => group.completions.map((c) => c.logprobs));
    for (const name of ["actor", "learner"]) {
      const args = ["logprobs", "--model", starter, "--input", input, "--engine", name, "--temperature", "0.7"];
      const { code, stdout, stderr } = await run("cli", [...args, "--threads", "1"]);
      expect(code, stderr).toBe(0);
      const found = stdout
        .trimEnd()
        .split("\n")
        .map((line) => (JSON.parse(line) as { logprobs: number[] }).logprobs);
      expect(found.map((row) => row.length)).toEqual(expected.map((row) => row.length));
      const gaps = found.flatMap((row, i) => row.map((value, t) => Math.abs(value - expected[i]![t]!)));
      expect(Math.max(...gaps)).toBeLessThanOrEqual(TOLERANCE);
    }
  });

  it("greedy tokens are transformers' on 32 prompts", async () => {
    const asked = golden.greedy.map(({ prompt_ids: prompt }, i): GenerateRequest => ({
      requestId: String(i),
      promptIds: Int32Array.from(prompt),
      groupSize: 1,
      seed: 0n,
      sampling: { temperature: 0, maxNewTokens: 64, stopIds: golden.stop_ids },
    }));
    const groups = await generateAll(engine, asked);
    expect(groups.map((group) => [...group.completions[0]!.ids])).toEqual(golden.greedy.map((g) => g.completion_ids));
    expect(groups).toHaveLength(32);
  });
});
