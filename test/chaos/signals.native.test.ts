/**
 * Signals in every phase of a run: it ends with a checkpoint and the documented exit code, without
 * a stack, and leaves nothing behind. CHAOS=full tries every signal in every phase, else one each.
 */
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { listCheckpoints } from "../../src/run/checkpoint.js";
import { GatedRun, leftovers, printed } from "../support/chaos.js";
import { cleanUp, iterationsOf, livingMembers, reason, temporary, unrunnable, until } from "../support/run.js";

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
const some = all.filter((_, i) => i % 5 === 0);

describe.skipIf(unrunnable)(`a signal to the whole group${reason}`, { timeout: 120_000 }, () => {
  it.each(process.env["CHAOS"] === "full" ? all : some)("%s while %s", async (signal, phase) => {
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
