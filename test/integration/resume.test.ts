/**
 * A run that is interrupted, killed and abandoned goes on where its last checkpoint stood, and
 * weights travel with it. One run directory through four sessions of the launcher; nothing is left
 * running after any of them.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { runConfigSchema } from "../../src/config/schema.js";
import { listCheckpoints } from "../../src/run/checkpoint.js";
import { TaskSource } from "../../src/learner/rollouts/task-source.js";
import { readModelConfig } from "../../src/model/config.js";
import { weightLayout } from "../../src/model/layout.js";
import { loadPacked } from "../../src/model/model-weights.js";
import { hashPacked } from "../../src/model/identity.js";
import {
  cleanUp,
  iterationsOf,
  livingMembers,
  readJournal,
  readMetrics,
  reason,
  start,
  starter,
  temporary,
  unrunnable,
  until,
} from "../support/run.js";

const MAX_STEPS = 9;
const GROUPS_PER_BATCH = 8;

afterAll(cleanUp);

describe.skipIf(unrunnable)(`one run in four sessions${reason}`, { timeout: 120_000 }, () => {
  const runDir = unrunnable ? "" : join(temporary(), "run");
  const resume = () => start("launch", ["--resume", runDir]);
  const reached = (iteration: number) => until(() => (iterationsOf(runDir).at(-1) ?? 0) >= iteration);
  const oneTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1);

  it("SIGINT to the whole terminal: a checkpoint of the iteration at hand, exit code 130, nobody left", async () => {
    const session = start("launch", [
      ...`--algo grpo --run-dir ${runDir} --max-steps ${MAX_STEPS} --seed 3 --actors 2`.split(" "),
      ..."--generation_batch_size=32 --num_generations=4 --max_completion_length=32 --learning_rate=1e-4".split(" "),
      ..."--warmup_steps=0 --save_steps=2 --save_total_limit=20 --eval.num_problems=8 --eval.greedy=false".split(" "),
    ]);
    await reached(1);
    session.signalGroup("SIGINT");
    const { code, stderr } = await session.ended;
    expect(code, stderr).toBe(130);
    expect(livingMembers(session.pid)).toEqual([]);
    const done = iterationsOf(runDir).length;
    expect(iterationsOf(runDir)).toEqual(oneTo(done));
    expect(listCheckpoints(runDir).at(-1)).toBe(done);
    expect(done).toBeLessThan(MAX_STEPS);
  });

  it("kill -9 of the whole tree in the middle of an iteration", async () => {
    const before = listCheckpoints(runDir).at(-1)!;
    const session = resume();
    await reached(before + 2);
    session.signalGroup("SIGKILL");
    await session.ended;
    await until(() => livingMembers(session.pid).length === 0);
    expect(iterationsOf(runDir).length).toBeLessThan(MAX_STEPS);
  });

  it("kill -9 of the launcher alone: its children notice and go", async () => {
    const before = listCheckpoints(runDir).at(-1)!;
    const session = resume();
    // it starts by cutting the metrics back to the checkpoint
    await until(() => iterationsOf(runDir).at(-1) === before);
    await reached(before + 1);
    expect(livingMembers(session.pid).length).toBeGreaterThanOrEqual(4);
    process.kill(session.pid, "SIGKILL");
    await until(() => livingMembers(session.pid).length === 0);
    expect(iterationsOf(runDir).length).toBeLessThan(MAX_STEPS);
  });

  it("the last session finishes: metrics without gap or repeat, counters and schedule carried on", async () => {
    const session = resume();
    const { code, stdout, stderr } = await session.ended;
    expect(code, stderr).toBe(0);
    expect(stdout).toContain("Continuing");
    expect(iterationsOf(runDir)).toEqual(oneTo(MAX_STEPS));
    expect(readMetrics(runDir).map((line) => line["optimizer_steps"])).toEqual(oneTo(MAX_STEPS));
    const walls = readMetrics(runDir).map((line) => line["wall_seconds"]!);
    expect(walls).toEqual(walls.toSorted((a, b) => a - b));
    const summary = JSON.parse(readFileSync(join(runDir, "summary.json"), "utf8")) as Record<string, unknown>;
    expect(summary).toMatchObject({
      iterations: MAX_STEPS,
      stopped: false,
      checkpoint: `checkpoints/step-00000${MAX_STEPS}`,
    });
    // measured in the first session, kept through three resumes
    expect(summary["validation"]).toMatchObject({ before: { sampled: { n: 8 } }, after: { sampled: { n: 8 } } });
    expect(livingMembers(session.pid)).toEqual([]);
    expect(existsSync(join(runDir, "launcher.json"))).toBe(false);
  });

  it("a finished run says so, and nothing is started", async () => {
    const before = readFileSync(join(runDir, "summary.json"), "utf8");
    const session = resume();
    const { code, stdout, stderr } = await session.ended;
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/is finished: .* raise --max-steps/);
    expect(readFileSync(join(runDir, "summary.json"), "utf8")).toBe(before);
  });

  it("every batch holds the tasks of its positions, each once, with advantages for each token", () => {
    const config = runConfigSchema.parse(JSON.parse(readFileSync(join(runDir, "config.json"), "utf8")));
    const source = TaskSource.open(config);
    const journal = readJournal(runDir);
    for (let batch = 0; batch < MAX_STEPS; batch++) {
      const records = journal.filter((entry) => entry.batch === batch).map((entry) => entry.record);
      const expected = Array.from({ length: GROUPS_PER_BATCH }, (_, slot) => source.taskAt(batch, slot, 0));
      const groups = records.flatMap((r) => (r.type === "trajectory" ? [r] : []));
      const byId = new Map(groups.map((r) => [r.task.taskId, r]));
      expect(groups.map((r) => r.task.taskId).toSorted()).toEqual(expected.map((task) => task.taskId));
      for (const task of expected) expect(byId.get(task.taskId)!.task).toEqual(task);
      const advantages = records.flatMap((r) => (r.type === "advantages" ? [r] : []));
      expect(advantages.map((r) => r.taskId).toSorted()).toEqual(expected.map((task) => task.taskId));
      for (const { taskId, advantages: rows } of advantages)
        expect(rows.map((row) => row.length)).toEqual(byId.get(taskId)!.group.completions.map((c) => c.ids.length));
    }
    expect(Math.max(...journal.map((entry) => entry.batch))).toBe(MAX_STEPS - 1);
  });

  it("weights travel: what actors sampled with is what the checkpoints hold, at most max_staleness iterations old", () => {
    const config = readModelConfig(starter);
    const hashOf = (folder: string) => hashPacked(loadPacked(folder, config), weightLayout(config));
    const sampledWith = new Map<number, Set<string>>();
    for (const { batch, record } of readJournal(runDir)) {
      if (record.type !== "trajectory") continue;
      for (const { iteration, sha256 } of record.group.completions.map((c) => c.version)) {
        expect(iteration).toBeGreaterThanOrEqual(batch - 1);
        expect(iteration).toBeLessThanOrEqual(batch);
        sampledWith.set(iteration, (sampledWith.get(iteration) ?? new Set()).add(sha256));
      }
    }
    // one history: no iteration has two sets of weights, and training changed them each time
    expect([...sampledWith.values()].every((hashes) => hashes.size === 1)).toBe(true);
    expect(new Set([...sampledWith.values()].flatMap((hashes) => [...hashes])).size).toBe(sampledWith.size);
    expect(sampledWith.get(0)).toEqual(new Set([hashOf(starter)]));
    const checked = listCheckpoints(runDir).filter((step) => sampledWith.has(step));
    for (const step of checked)
      expect(sampledWith.get(step)).toEqual(
        new Set([hashOf(join(runDir, "checkpoints", `step-${String(step).padStart(6, "0")}`))]),
      );
    expect(checked.length).toBeGreaterThanOrEqual(2);
  });
});
