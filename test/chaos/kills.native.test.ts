/**
 * A run whose processes are killed and stopped finishes by itself, with every task counted once.
 * CHAOS=full: 3 actors, 60 iterations, 20 kills and 6 hangs, in minutes; else a short form.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Draw } from "../../src/math/random.js";
import { readIncidents } from "../../src/run/incidents.js";
import { checkJournal } from "../support/audit.js";
import { launchSmall, printed } from "../support/chaos.js";
import { cleanUp, iterationsOf, livingMembers, reason, temporary, unrunnable, until } from "../support/run.js";

afterAll(cleanUp);

const isFull = process.env["CHAOS"] === "full";
const plan = isFull ? { iterations: 60, kills: 20, hangs: 6 } : { iterations: 12, kills: 4, hangs: 0 };
const seed = Number(process.env["FC_SEED"] ?? 1);

/** Living learner and actor processes of a session, by role. */
function processes(group: number): { pid: number; role: "learner" | "actor" }[] {
  return livingMembers(group).flatMap((pid) => {
    const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    const role = (["learner", "actor"] as const).find((name) => words.some((word) => word.includes(`dist/${name}`)));
    return role === undefined ? [] : [{ pid, role }];
  });
}

describe.skipIf(unrunnable)(`kills and hangs${reason}`, { timeout: isFull ? 1_800_000 : 180_000 }, () => {
  it(`finishes ${plan.iterations} iterations through ${plan.kills} kills and ${plan.hangs} hangs`, async () => {
    const draw = new Draw(seed);
    const runDir = join(temporary(), "run");
    const session = launchSmall(
      runDir,
      ...`--actors 3 --max-steps ${plan.iterations} --save_steps=2 --save_total_limit=3`.split(" "),
      ...`--actors.max_restarts=100 --learner.max_restarts=50 --actors.lease_seconds=10`.split(" "),
    );
    const state = { hasEnded: false };
    const ended = session.ended.finally(() => (state.hasEnded = true));
    const done = { kills: 0, hangs: 0, learner: 0 };
    await until(() => state.hasEnded || iterationsOf(runDir).length > 0);
    while (!state.hasEnded && done.kills + done.hangs < plan.kills + plan.hangs) {
      await new Promise((resolve) => setTimeout(resolve, draw.int(300, 1_500)));
      const living = processes(session.pid);
      const wantsLearner = draw.unit() < 0.25 || (done.learner === 0 && done.kills === plan.kills - 1);
      const chosen = living.filter(({ role }) => role === (wantsLearner ? "learner" : "actor"));
      if (chosen.length === 0) continue;
      const { pid, role } = draw.pick(chosen);
      const hang = done.hangs < plan.hangs && draw.unit() < 0.25;
      if (!hang && done.kills === plan.kills) continue;
      try {
        process.kill(pid, hang ? "SIGSTOP" : "SIGKILL");
      } catch {
        continue; // gone meanwhile
      }
      if (hang) done.hangs++;
      else done.kills++;
      if (role === "learner") done.learner++;
    }
    const { code, stderr } = await ended;
    expect(code, `${stderr}\n${printed(runDir)}`).toBe(0);
    expect(done).toMatchObject({ kills: plan.kills, hangs: plan.hangs });
    expect(done.learner).toBeGreaterThan(0);
    expect(iterationsOf(runDir)).toHaveLength(plan.iterations);
    expect(checkJournal(runDir)).toBe(plan.iterations * 32);
    expect(readIncidents(runDir).length).toBeGreaterThanOrEqual(plan.kills - 1);
    expect(readdirSync(join(runDir, "checkpoints")).filter((name) => name.includes("tmp"))).toEqual([]);
  });
});
