/**
 * A run whose processes are killed and stopped, and whose messages are harmed on the way, finishes
 * by itself, with every task counted once. CHAOS=full: 60 iterations, 20 kills, 8 hangs, and the
 * accuracy of an undisturbed run; else a short form.
 */
import { execFileSync, spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import { Draw } from "../../src/math/random.js";
import { readIncidents } from "../../src/run/incidents.js";
import { readSummary } from "../../src/run/records.js";
import { checkJournal } from "../support/audit.js";
import { GatedRun, launchSmall, leftovers, printed } from "../support/chaos.js";
import { cleanUp, iterationsOf, reason, root, temporary, unrunnable, until } from "../support/run.js";

afterAll(cleanUp);

const isFull = process.env["CHAOS"] === "full";
const seed = Number(process.env["FC_SEED"] ?? 1);

const kinds = ["kill actor", "kill learner", "stop actor", "stop learner", "stop engine", "loop", "promise"] as const;
type Kind = (typeof kinds)[number];
const plan: Partial<Record<Kind, number>> = isFull
  ? { "kill actor": 14, "kill learner": 6, "stop actor": 2, "stop learner": 1, "stop engine": 2, loop: 2, promise: 1 }
  : { "kill actor": 3, "kill learner": 1 };
const disturbances = kinds.flatMap((kind) => Array.from({ length: plan[kind] ?? 0 }, () => kind));
const iterations = isFull ? 60 : 12;
const problems = isFull ? 256 : 16;

const canStopThreads = ((): boolean => {
  try {
    execFileSync("python3", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();

const disturbed: number[] = [];

/** Does one harm to a living process of the run; waits for one. */
async function disturb(run: GatedRun, kind: Kind, draw: Draw, hasEnded: () => boolean): Promise<void> {
  if (kind === "loop" || kind === "promise") return until(run.hangReward(`hang-${kind}`));
  const role = kind.endsWith("learner") ? "learner" : "actor";
  for (;;) {
    await until(() => hasEnded() || run.processes(role).length > 0);
    if (hasEnded()) throw new Error(`the run ended before "${kind}"`);
    const pid = draw.pick(run.processes(role));
    disturbed.push(pid);
    try {
      if (kind === "stop engine") await stopEngine(pid);
      else process.kill(pid, kind.startsWith("stop") ? "SIGSTOP" : "SIGKILL");
      return;
    } catch {
      // gone meanwhile: another one then
    }
  }
}

/** Resolves when the engine's thread is stopped; it stays so for as long as its process lives. */
function stopEngine(pid: number): Promise<void> {
  const script = join(root, "test/fixtures/stop-engine-thread.py");
  const python = spawn("python3", [script, String(pid), "300"], { stdio: ["ignore", "pipe", "inherit"] });
  return new Promise((resolve, reject) => {
    python.stdout.once("data", () => resolve());
    python.once("exit", () => reject(new Error(`${pid}: its engine was not stopped`)));
  });
}

describe.skipIf(unrunnable)(`kills and hangs${reason}`, { timeout: isFull ? 2_400_000 : 240_000 }, () => {
  const title = `finishes ${iterations} iterations through ${disturbances.length} kills and hangs and harmed messages`;
  it.skipIf(isFull && !canStopThreads)(title, async () => {
    const draw = new Draw(seed);
    const run = new GatedRun(
      temporary(),
      isFull ? 0.02 : 0.01,
      ...`--actors 3 --max-steps ${iterations} --save_steps=2 --save_total_limit=3 --actors.lease_seconds=20`.split(
        " ",
      ),
      ...`--actors.max_restarts=100 --learner.max_restarts=50 --reward.timeout_seconds=20`.split(" "),
      ...`--reward.max_error_rate=0.5 --eval.num_problems=${problems}`.split(" "),
    );
    let isOver = false;
    const ended = run.running.ended.finally(() => (isOver = true));
    const left = [...disturbances];
    for (let done = 0; left.length > 0; done++) {
      // harm comes evenly over the run, which goes on meanwhile, but not to its end
      const target = 1 + Math.floor((done * (iterations - 2)) / disturbances.length);
      run.allow(target + 1);
      await until(() => isOver || iterationsOf(run.runDir).length >= target);
      await sleep(draw.int(0, 800));
      const [kind] = left.splice(draw.int(0, left.length - 1), 1);
      await disturb(run, kind!, draw, () => isOver);
      if (isFull) console.log(`${kind} at iteration ${iterationsOf(run.runDir).at(-1) ?? 0}`);
    }
    run.allow(Infinity);
    const { code, stderr } = await ended;
    expect(code, `${stderr}\n${printed(run.runDir)}`).toBe(0);
    expect(iterationsOf(run.runDir)).toHaveLength(iterations);
    expect(checkJournal(run.runDir)).toBe(iterations * 32);
    expect(Object.keys(run.harmDone()).length).toBeGreaterThan(0);
    // two kills at once may show as one
    expect(readIncidents(run.runDir).length).toBeGreaterThanOrEqual(disturbances.length / 2);
    expect(readdirSync(join(run.runDir, "checkpoints")).filter((name) => name.includes("tmp"))).toEqual([]);
    expect(leftovers(disturbed)).toEqual([]);
    if (!isFull) return;
    console.log(JSON.stringify(run.harmDone()), JSON.stringify(readSummary(run.runDir).validation.after));
    const calm = join(temporary(), "run");
    const { ended: calmEnded } = launchSmall(
      calm,
      "--max-steps",
      String(iterations),
      `--eval.num_problems=${problems}`,
    );
    expect((await calmEnded).code).toBe(0);
    const accuracy = (runDir: string): number => readSummary(runDir).validation.after!.sampled!.accuracy;
    console.log(JSON.stringify(readSummary(calm).validation.after));
    // three standard deviations of a difference of two such shares
    expect(Math.abs(accuracy(run.runDir) - accuracy(calm))).toBeLessThan(3 * Math.sqrt((2 * 0.25) / problems));
  });
});
