import { spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { showStatus as command } from "../../src/study/status-text.js";
import { UserError } from "../../src/errors.js";
import { claimOwnership } from "../../src/run/owner.js";
import { runStatus } from "../../src/run/health.js";
import { writeRun, writeStudy } from "../support/evaluation.js";

let root = "";
let dir = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "status-"));
  dir = join(root, "run");
  mkdirSync(join(dir, "logs"), { recursive: true });
  writeRun(dir, "grpo", 7, { before: 0.4, iterations: 40 }, 0.8);
  return () => rmSync(root, { recursive: true });
});

const mark = (owner: object): void => writeFileSync(join(dir, "launcher.json"), JSON.stringify(owner));
/** A pid that was this machine's and is gone. */
const gone = (): number => spawnSync(process.execPath, ["-e", ""]).pid;
/** Rewrites metrics.jsonl and removes the summary: a run in its middle. */
function unfinished(upTo: number, change: (line: Record<string, number>) => object = (line) => line): void {
  const lines = readFileSync(join(dir, "metrics.jsonl"), "utf8").trimEnd().split("\n").slice(0, upTo);
  writeFileSync(
    join(dir, "metrics.jsonl"),
    lines.map((line) => `${JSON.stringify(change(JSON.parse(line) as Record<string, number>))}\n`).join(""),
  );
  rmSync(join(dir, "summary.json"));
}

describe("a run", () => {
  test("that ended well is finished", () => {
    expect(runStatus(dir)).toMatchObject({
      state: "finished",
      iteration: 40,
      max_steps: 40,
      problems: [],
      warnings: [],
      eta_seconds: null,
    });
  });

  test("that goes on has a pace and a time left; a torn last line is no matter", () => {
    unfinished(30);
    claimOwnership(dir, join(dir, "launcher.json"), "");
    appendFileSync(join(dir, "metrics.jsonl"), '{"iteration": 31, "rew');
    const status = runStatus(dir);
    expect(status).toMatchObject({
      state: "running",
      iteration: 30,
      problems: [],
      owner: { pid: process.pid, state: "living" },
    });
    expect(status.seconds_per_iteration).toBeCloseTo(1.7, 9);
    expect(status.eta_seconds).toBeCloseTo(17, 9);
  });

  test("that was just begun has neither", () => {
    unfinished(0);
    claimOwnership(dir, join(dir, "launcher.json"), "");
    expect(runStatus(dir)).toMatchObject({
      state: "running",
      iteration: 0,
      seconds_per_iteration: null,
      eta_seconds: null,
      problems: [],
    });
  });

  test("whose launcher is gone died", () => {
    unfinished(30);
    mark({ host: hostname(), pid: gone(), started: "1" });
    expect(runStatus(dir)).toMatchObject({ state: "died", problems: [expect.stringMatching(/is gone.*--resume/)] });
  });

  test("whose pid belongs to another process by now died, too", () => {
    unfinished(30);
    mark({ host: hostname(), pid: process.pid, started: "1" });
    expect(runStatus(dir).state).toBe("died");
  });

  test("that failed left neither mark nor summary", () => {
    unfinished(30);
    expect(runStatus(dir)).toMatchObject({ state: "ended", problems: [expect.stringContaining("logs/ says why")] });
  });

  test.each(["null", "0.5"])("whose configuration says transport: %s is refused by name", (transport) => {
    const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as object;
    writeFileSync(join(dir, "config.json"), JSON.stringify({ ...config, transport: JSON.parse(transport) as unknown }));
    expect(() => runStatus(dir)).toThrow(UserError);
    expect(() => runStatus(dir)).toThrow(/config\.json: transport must be/);
  });

  test("of another machine is judged by the age of its files", () => {
    unfinished(30);
    mark({ host: "another-machine", pid: 1, started: "1" });
    expect(runStatus(dir)).toMatchObject({ state: "running", problems: [] });
    const later = Date.now() + 1000 * 1000;
    expect(runStatus(dir, later).problems).toEqual([
      expect.stringMatching(/no progress for 1\d{3} s \(expected some within 300 s\)/),
    ]);
    // a process that logs and makes no progress is no running run
    const touch = (file: string): void => {
      appendFileSync(join(dir, file), "");
      utimesSync(join(dir, file), later / 1000, later / 1000);
    };
    touch("logs/dispatcher.jsonl");
    expect(runStatus(dir, later).problems).toHaveLength(1);
    touch("metrics.jsonl");
    expect(runStatus(dir, later).problems).toEqual([]);
  });

  test.each([
    ["a gap above the limit", { "sampling/actor_learner_logprob_gap/max": 0.5 }, /differ by 5.0e-1 nats/],
    ["too old samples", { "staleness/max": 9 }, /staleness 9, more than max_staleness/],
    ["a loss that is no number", { loss: null }, /no number in 20 of the last 20/],
  ])("%s is a problem", (_what, change, message) => {
    unfinished(30, (line) => ({ ...line, ...change }));
    claimOwnership(dir, join(dir, "launcher.json"), "");
    expect(runStatus(dir).problems).toEqual([expect.stringMatching(message)]);
  });

  test.each([
    ["reward errors", { reward_errors: 2 }, /40 reward errors in the last 20/],
    ["refused answers", { groups_refused_malformed: 400 }, /400 answers refused/],
    ["an actor too few", { actors_live: 0 }, /0 of 1 actors live/],
    ["a learner that waits", { "idle/learner": 0.95 }, /learner waits/],
    ["no reward at all", { reward: undefined }, /every reward was null in 20 of the last 20 iterations/],
    ["no reward, in GRPO", { reward: undefined, frac_reward_zero_std: 1 }, /every reward was null/],
    ["no signal", { frac_reward_zero_std: 1 }, /nothing to learn from/],
  ])("%s is a warning", (_what, change, message) => {
    unfinished(30, (line) => ({ ...line, ...change }));
    claimOwnership(dir, join(dir, "launcher.json"), "");
    expect(runStatus(dir)).toMatchObject({ problems: [], warnings: [expect.stringMatching(message)] });
  });
});

describe("the command", () => {
  const look = async (path: string, json = false): Promise<{ healthy: boolean; text: string }> => {
    const log = vi.spyOn(console, "log").mockImplementation(() => {});
    const healthy = await command(path, { watch: false, json });
    const text = log.mock.calls.join("\n");
    log.mockRestore();
    return { healthy, text };
  };

  test("says whether a run is well", async () => {
    expect(await look(dir)).toMatchObject({
      healthy: true,
      text: expect.stringContaining("run: finished, GRPO, seed 7, step 40/40") as string,
    });
    unfinished(10);
    const { healthy, text } = await look(dir, true);
    expect(healthy).toBe(false);
    expect(JSON.parse(text)).toMatchObject({ state: "ended", iteration: 10 });
  });

  test("says which runs of a study are done", async () => {
    const study = join(root, "study");
    writeStudy(study, { before: 0.4, after: { grpo: 0.8, ppo: 0.8 }, seeds: [1, 2], questions: 4, iterations: 8 });
    expect(await look(study)).toMatchObject({
      healthy: true,
      text: expect.stringContaining("finished; 4 of 4 runs trained and evaluated") as string,
    });
    rmSync(join(study, "comparison.json"));
    rmSync(join(study, "ppo-seed2"), { recursive: true });
    rmSync(join(study, "grpo-seed2/eval"), { recursive: true });
    rmSync(join(study, "grpo-seed2/summary.json"));
    const dead = await look(study);
    expect(dead.healthy).toBe(false);
    for (const line of [
      "not running; 2 of 4",
      "ppo-seed2: not begun",
      "grpo-seed1: finished and evaluated",
      "grpo-seed2: ended",
      "start the same study again",
    ])
      expect(dead.text).toContain(line);
    // the same files while somebody works on them
    claimOwnership(study, join(study, "owner.json"), "");
    expect(await look(study)).toMatchObject({
      healthy: true,
      text: expect.stringContaining("running (process") as string,
    });
  });

  test("refuses another directory", async () => {
    await expect(command(root, { watch: false, json: false })).rejects.toThrow(UserError);
  });
});
