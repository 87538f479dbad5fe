/**
 * Runs with learning rate 0: the weights stay what they are. What is sampled and earned depends
 * neither on the number of actors nor on whether there are any.
 */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { uniform } from "../../src/engine/noise.js";
import { startBackend } from "../../src/learner/backend/backend.js";
import { disposeBatch, hiddenStates, prepareMicrobatch } from "../../src/learner/policy/policy.js";
import { splitFlat } from "../../src/learner/policy/named-weights.js";
import { readModelConfig } from "../../src/model/config.js";
import { weightLayout } from "../../src/model/layout.js";
import { loadPacked } from "../../src/model/model-weights.js";
import { hashPacked } from "../../src/model/identity.js";
import {
  cleanUp,
  iterationsOf,
  readMetrics,
  reason,
  run,
  starter,
  temporary,
  trajectoriesOf,
  unrunnable,
  type Trajectory,
} from "../support/run.js";

/** Rounding of float32 sums over a vocabulary. */
const CDF_TOLERANCE = 1e-5;

afterAll(cleanUp);

describe.skipIf(unrunnable)(`learning rate 0: 512 completions in 2 iterations${reason}`, { timeout: 240_000 }, () => {
  const ways = { "one actor": "--actors 1", "two actors": "--actors 2", serial: "--serial" };
  const runDirs = new Map<string, string>();
  const journals = new Map<string, Map<string, Trajectory>>();

  beforeAll(async () => {
    for (const [way, flags] of Object.entries(ways)) {
      const runDir = join(temporary(), "run");
      const { code, stderr } = await run("launch", [
        ...`--algo grpo --run-dir ${runDir} --max-steps 2 --seed 5 ${flags}`.split(" "),
        ..."--learning_rate=0 --warmup_steps=0 --generation_batch_size=256 --actors.max_rows=64".split(" "),
        ..."--eval.sampled=false --eval.greedy=false".split(" "),
      ]);
      expect(code, stderr).toBe(0);
      runDirs.set(way, runDir);
      journals.set(way, trajectoriesOf(runDir));
    }
  }, 240_000);

  /**
   * Pairs of completions of the same task and number, and how far the uniform of their first
   * difference is from the cdf boundaries.
   */
  function pairs(one: Map<string, Trajectory>, other: Map<string, Trajectory>) {
    return [...one.values()].flatMap((a) =>
      a.group.completions.map((mine, c) => ({ a, c, mine, theirs: other.get(a.task.taskId)!.group.completions[c]! })),
    );
  }

  it("the weights stay the starter's, in every iteration and in the checkpoint", () => {
    const config = readModelConfig(starter);
    const layout = weightLayout(config);
    const hash = hashPacked(loadPacked(starter, config), layout);
    for (const [way, journal] of journals) {
      const versions = [...journal.values()].flatMap((t) => t.group.completions.map((c) => c.version));
      expect(new Set(versions.map((version) => version.sha256)), way).toEqual(new Set([hash]));
      if (way === "serial") expect(new Set(versions.map((version) => version.iteration))).toEqual(new Set([0, 1]));
      const runDir = runDirs.get(way)!;
      expect(iterationsOf(runDir)).toEqual([1, 2]);
      expect(hashPacked(loadPacked(join(runDir, "checkpoints/step-000002"), config), layout)).toBe(hash);
    }
  });

  it("two actors really shared the work", () => {
    expect(new Set([...journals.get("two actors")!.values()].map((t) => t.group.actorId)).size).toBe(2);
  });

  for (const way of ["two actors", "serial"])
    it(`${way}: the same completions and rewards as one actor, but for uniforms on a cdf boundary`, async () => {
      const all = pairs(journals.get("one actor")!, journals.get(way)!);
      expect(all).toHaveLength(512);
      expect(new Set(all.map(({ mine }) => mine.ids.join())).size).toBeGreaterThan(100);
      const differing = all.filter(({ mine, theirs }) => mine.ids.join() !== theirs.ids.join());
      expect(differing.length).toBeLessThanOrEqual(0.005 * 512);
      const identical = all.filter((pair) => !differing.includes(pair));
      for (const { mine, theirs } of identical) expect(mine.rewards).toEqual(theirs.rewards);
      for (const { a, c, mine, theirs } of differing) {
        const t = mine.ids.findIndex((id, i) => id !== theirs.ids[i]);
        const [boundaries] = await boundariesOf([{ promptIds: a.task.promptIds, ids: mine.ids.subarray(0, t + 1) }]);
        const u = uniform(a.task.seed, c, t);
        for (const id of [mine.ids[t]!, theirs.ids[t]!])
          expect(outside(u, boundaries!.at(-1)!, id), `${a.task.taskId}/${c}, token ${t}`).toBeLessThan(CDF_TOLERANCE);
      }
      if (differing.length === 0)
        expect(readMetrics(runDirs.get(way)!).map((line) => line["reward"])).toEqual(
          readMetrics(runDirs.get("one actor")!).map((line) => line["reward"]),
        );
    });

  it("each token is the one its uniform picks from the learner's own distribution", async () => {
    const some = [...journals.get("two actors")!.values()].slice(0, 24);
    const rows = some.flatMap(({ task, group }) =>
      group.completions.map(({ ids }, c) => ({ promptIds: task.promptIds, ids, seed: task.seed, c })),
    );
    const cdfs = await boundariesOf(rows);
    let worst = 0;
    rows.forEach(({ ids, seed, c }, i) =>
      ids.forEach((id, t) => (worst = Math.max(worst, outside(uniform(seed, c, t), cdfs[i]![t]!, id)))),
    );
    expect(rows.length).toBe(192);
    expect(worst).toBeLessThan(CDF_TOLERANCE);
  });
});

/** How far u lies outside the interval [cdf(id − 1), cdf(id)) that picks id; 0 inside. */
function outside(u: number, cdf: Float64Array, id: number): number {
  return Math.max(0, (cdf[id - 1] ?? 0) - u, u - cdf[id]!);
}

/**
 * For each completion token of each row the cumulative distribution over the vocabulary (T = 1), by
 * the learner's logits.
 */
async function boundariesOf(rows: readonly { promptIds: Int32Array; ids: Int32Array }[]): Promise<Float64Array[][]> {
  const config = readModelConfig(starter);
  const { tf } = await startBackend("auto", 1);
  const tensors = splitFlat(tf, tf.tensor1d(loadPacked(starter, config)), weightLayout(config));
  const head = tensors.get("lm_head.weight") ?? tensors.get("model.embed_tokens.weight")!;
  const groups = rows.map(({ promptIds, ids }) => ({ promptIds, completions: [ids] }));
  const batch = prepareMicrobatch(tf, config, groups);
  const logits = tf.tidy(() => {
    const hidden = hiddenStates(tf, config, { tensors, lora: null }, batch);
    return tf.matMul(tf.gather(hidden, batch.predictors), head as typeof hidden, false, true);
  });
  const values = (await logits.data()) as Float32Array;
  disposeBatch(tf, batch);
  tf.dispose([logits, [...tensors.values()]]);
  let next = 0;
  return rows.map(({ ids }) =>
    Array.from(ids, () => {
      const row = values.subarray(next * config.vocabSize, ++next * config.vocabSize);
      const largest = row.reduce((a, b) => Math.max(a, b), -Infinity);
      const cdf = new Float64Array(config.vocabSize);
      let sum = 0;
      row.forEach((logit, id) => (cdf[id] = sum += Math.exp(logit - largest)));
      return cdf.map((value) => value / sum);
    }),
  );
}
