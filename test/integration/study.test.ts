/**
 * A study of two algorithms and two seeds end to end: stopped once, killed once, and finished all
 * the same.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  cleanUp,
  iterationsOf,
  livingMembers,
  reason,
  run,
  start,
  temporary,
  unrunnable,
  until,
} from "../support/run.js";

afterAll(cleanUp);

describe.skipIf(unrunnable)(`study${reason}`, { timeout: 240_000 }, () => {
  const folder = unrunnable ? "" : temporary();
  const dir = join(folder, "out");
  const file = join(folder, "small.yaml");
  const args = ["study", file, "--out", dir];
  const json = (path: string): unknown => JSON.parse(readFileSync(join(dir, path), "utf8"));

  it("goes on after SIGINT and after SIGKILL, skips what is finished, and ends with a verdict", async () => {
    writeFileSync(
      file,
      JSON.stringify({
        name: "small",
        config: ["configs/starter.yaml"],
        overrides: {
          max_steps: 3,
          generation_batch_size: 16,
          warmup_steps: 0,
          save_steps: 1,
          eval_steps: 1,
          eval: { num_problems: 8 },
        },
        algorithms: { grpo: { steps_per_generation: 2 }, ppo: null },
        seeds: [1, 2],
        eval: { data: "starter-test", limit: 8, samples: 2 },
        primary: "sampled",
      }),
    );
    const stopped = start("cli", args);
    await until(() => iterationsOf(join(dir, "grpo-seed1")).length > 0);
    stopped.signalGroup("SIGINT");
    const { code, stdout } = await stopped.ended;
    expect(code, stdout).toBe(130);
    expect(stdout).toMatch(/SIGINT: stopping the step at hand[^]*Stopped at \[2\/9\] grpo-seed1\./);
    expect(json("grpo-seed1/summary.json")).toMatchObject({ stopped: true });
    const baseline = readFileSync(join(dir, "baseline/metrics.json"), "utf8");

    const killed = start("cli", args);
    await until(() => iterationsOf(join(dir, "ppo-seed1")).length > 0);
    const { pid: launcher } = json("ppo-seed1/launcher.json") as { pid: number };
    killed.signalGroup("SIGKILL");
    await killed.ended;
    // the training it left behind sees that nobody waits for it, and stops
    await until(() => livingMembers(launcher).length === 0);

    const finishing = start("cli", args);
    // the longest of the three: a second one is refused while it runs
    await until(() => iterationsOf(join(dir, "ppo-seed1")).length === 3);
    const second = await run("cli", args);
    expect(second.code).toBe(1);
    expect(second.stderr).toMatch(/being run by process \d+/);
    const last = await finishing.ended;
    expect(last.code, last.stdout + last.stderr).toBe(0);
    expect(last.stdout).toMatch(/9 steps, 3 finished/);
    expect(last.stdout).toMatch(
      /VERDICT\. Sampled accuracy after 48 completions \(8 questions × 2 samples, 2 seeds\): /,
    );
    for (const run of ["grpo-seed1", "ppo-seed1", "grpo-seed2", "ppo-seed2"])
      expect(iterationsOf(join(dir, run)), run).toEqual([1, 2, 3]);
    expect(readFileSync(join(dir, "baseline/metrics.json"), "utf8")).toBe(baseline);
    expect(json("comparison.json")).toMatchObject({ primary: [{ algorithms: ["grpo", "ppo"], seeds: 2 }], notes: [] });
    expect(existsSync(join(dir, "report.html"))).toBe(true);
    expect(existsSync(join(dir, "owner.json"))).toBe(false);

    const compared = await run("cli", ["compare", dir]);
    expect(compared.stdout.trimEnd()).toBe(
      last.stdout.slice(last.stdout.indexOf("Study small: "), last.stdout.indexOf("\nReport: ")).trimEnd(),
    );
  });
});
