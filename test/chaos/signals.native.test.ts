/**
 * Signals in every phase of a run: it ends with a checkpoint and the documented exit code, without
 * a stack, and leaves nothing behind. CHAOS=full tries every signal in every phase, else one each.
 */
import { execFile, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import { afterAll, describe, expect, it } from "vitest";
import { Draw } from "../../src/math/random.js";
import { listCheckpoints } from "../../src/run/checkpoint.js";
import { GatedRun, SMALL, launchSmall, leftovers, printed } from "../support/chaos.js";
import { cleanUp, iterationsOf, livingMembers, reason, root, temporary, unrunnable, until } from "../support/run.js";

afterAll(cleanUp);

/** When a phase has begun, by what the launcher prints. */
const phases: Record<string, (runDir: string) => boolean> = {
  loading: (runDir) => printed(runDir).includes("loading the model"),
  "self-test": (runDir) => printed(runDir).includes("learner ready"),
  evaluating: (runDir) => printed(runDir).includes("evaluating"),
  training: (runDir) => iterationsOf(runDir).length > 0,
  saving: (runDir) => existsSync(join(runDir, "checkpoints")),
  "evaluating at the end": (runDir) => printed(runDir).split("evaluating").length > 2,
};
const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"] as const;
const all = Object.keys(phases).flatMap((phase) => signals.map((signal) => [signal, phase] as const));
const isLong = process.env["CHAOS"] === "full";
const some = all.filter((_, i) => i % 5 === 0);

describe.skipIf(unrunnable)(`a signal to the whole group${reason}`, { timeout: 120_000 }, () => {
  it.each(isLong ? all : some)("%s while %s", async (signal, phase) => {
    const isAtEnd = phase === "evaluating at the end";
    const steps = isAtEnd ? 2 : 6;
    const run = new GatedRun(
      temporary(),
      0,
      ...`--max-steps ${steps} --save_steps=1 --eval.num_problems=64`.split(" "),
    );
    // it cannot end before the signal, however late this test is
    run.allow(isAtEnd ? steps : steps - 1);
    const { runDir, running: session } = run;
    await until(() => phases[phase]!(runDir));
    const pids = livingMembers(session.pid);
    session.signalGroup(signal);
    run.allow(Infinity);
    const { code, stderr } = await session.ended;
    expect(stderr).toBe("");
    // USR1 asks for a checkpoint and ends nothing
    expect(code).toBe(signal === "SIGUSR1" ? 0 : 128 + constants.signals[signal]);
    expect(listCheckpoints(runDir).at(-1)).toBe(iterationsOf(runDir).at(-1) ?? 0);
    if (signal === "SIGUSR1") expect(iterationsOf(runDir)).toHaveLength(steps);
    expect(livingMembers(session.pid)).toEqual([]);
    expect(leftovers(pids)).toEqual([]);
  });
});

describe.skipIf(unrunnable)(`ends at any moment${reason}`, { timeout: 1_800_000 }, () => {
  const ends = isLong ? 100 : 3;

  it(`${ends} of them leave no process and no folder`, async () => {
    const draw = new Draw(Number(process.env["FC_SEED"] ?? 1));
    const met = new Set<number>();
    for (let i = 0; i < ends; i++) {
      const session = launchSmall(join(temporary(), "run"), "--max-steps", "4");
      const { pid } = session;
      let isOver = false;
      void session.ended.then(() => (isOver = true));
      const mine = new Set<number>();
      const collect = setInterval(() => livingMembers(pid).forEach((member) => mine.add(member)), 20);
      await pause(draw.int(0, 4_000));
      const how = draw.pick(["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "kill the launcher", "kill all"] as const);
      // a run that has ended by itself counts as well
      if (!isOver && how === "kill the launcher") process.kill(pid, "SIGKILL");
      if (!isOver && how !== "kill the launcher") session.signalGroup(how === "kill all" ? "SIGKILL" : how);
      await until(() => isOver && livingMembers(pid).length === 0);
      clearInterval(collect);
      // nobody is left to tidy up after a whole group: the next run does
      if (how !== "kill all") expect(leftovers([...mine]), `end ${i}: ${how}`).toEqual([]);
      for (const member of mine) met.add(member);
    }
    expect((await launchSmall(join(temporary(), "run"), "--max-steps", "1").ended).code).toBe(0);
    expect(leftovers([...met])).toEqual([]);
  });
});

const hasPython = spawnSync("python3", ["--version"]).status === 0;
const noPython = hasPython ? "" : " (skipped: no python3 to make a terminal)";

describe.skipIf(unrunnable || !hasPython)(`a terminal${reason}${noPython}`, { timeout: 120_000 }, () => {
  it("that is closed asks the run to stop: a checkpoint, exit code 129, no abort", async () => {
    const runDir = join(temporary(), "run");
    const words = ["--algo", "grpo", "--run-dir", runDir, "--max-steps", "100000", ...SMALL];
    const launch = [process.execPath, join(root, "dist/launch.js"), ...words];
    const fixture = join(root, "test/fixtures/close-terminal.py");
    const { stdout } = await promisify(execFile)("python3", [fixture, join(runDir, "metrics.jsonl"), ...launch]);
    expect(stdout).toBe("129\n");
    expect(listCheckpoints(runDir).at(-1)).toBe(iterationsOf(runDir).at(-1));
    expect(printed(runDir)).toMatch(/SIGHUP: writing a checkpoint/);
  });
});
