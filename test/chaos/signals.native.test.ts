/**
 * Signals in every phase of a run: it ends with a checkpoint and the documented exit code, without
 * a stack, and leaves nothing behind. CHAOS=full tries every signal in every phase, else one each.
 */
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { listCheckpoints } from "../../src/run/checkpoint.js";
import { launchSmall, leftovers, printed } from "../support/chaos.js";
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
    const runDir = join(temporary(), "run");
    const steps = phase === "evaluating at the end" ? "2" : "6";
    const session = launchSmall(runDir, "--max-steps", steps, "--save_steps=1", "--eval.num_problems=64");
    await until(() => phases[phase]!(runDir));
    const pids = livingMembers(session.pid);
    session.signalGroup(signal);
    const { code, stderr } = await session.ended;
    expect(stderr).toBe("");
    // USR1 asks for a checkpoint and ends nothing
    expect(code).toBe(signal === "SIGUSR1" ? 0 : 128 + constants.signals[signal]);
    expect(listCheckpoints(runDir).at(-1)).toBe(iterationsOf(runDir).at(-1) ?? 0);
    if (signal === "SIGUSR1") expect(iterationsOf(runDir)).toHaveLength(Number(steps));
    expect(livingMembers(session.pid)).toEqual([]);
    expect(leftovers(pids)).toEqual([]);
  });
});
