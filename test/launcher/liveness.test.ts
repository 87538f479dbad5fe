/** When a silent process counts as hung: never while it computes, soon when it is stopped. */
import { describe, expect, it } from "vitest";
import { LifeSigns } from "../../src/launcher/liveness.js";
import { RestartBudget, RESTART_WINDOW_MS } from "../../src/launcher/restarts.js";
import { Watchdog } from "../../src/launcher/watchdog.js";
import type { ProgressEvent } from "../../src/protocol/progress.js";

/** Verdicts every two seconds of a process that last gave a sign at 0. */
function judged(seconds: number, state: string, cpuShare: number): string[] {
  const life = new LifeSigns(0);
  return Array.from({ length: seconds / 2 }, (_, i) => {
    const atMs = (i + 1) * 2_000;
    return life.judge(atMs, { state, cpuMs: atMs * cpuShare }).kind;
  });
}

describe("a child without life signs", () => {
  it("is well as long as it computes, however long a step takes", () => {
    expect(new Set(judged(3_600, "R", 1.7))).toEqual(new Set(["well"]));
    expect(new Set(judged(3_600, "S", 0.3))).toEqual(new Set(["well"]));
  });

  it.each([
    ["stopped (SIGSTOP)", "T", 50],
    ["stopped by a tracer", "t", 50],
    ["standing still", "S", 130],
    ["waiting for a disk", "D", 610],
  ])("%s, is named within 30 s and killed", (_, state, seconds) => {
    const verdicts = judged(seconds, state, 0);
    expect(2 * verdicts.indexOf("suspect")).toBeLessThanOrEqual(30);
    expect(verdicts.at(-1)).toBe("hung");
    expect(verdicts.at(-12)).not.toBe("hung");
  });

  it("that is an actor whose main thread is busy is named, and killed beyond the time-out of rewards", () => {
    const life = new LifeSigns(0, 65_000);
    const verdicts = Array.from({ length: 40 }, (_, i) => life.judge(2_000 * i, { state: "R", cpuMs: 2_000 * i }).kind);
    expect(2 * verdicts.indexOf("suspect")).toBeLessThanOrEqual(30);
    expect(2 * verdicts.indexOf("hung")).toBeGreaterThanOrEqual(64);
    expect(2 * verdicts.indexOf("hung")).toBeLessThanOrEqual(70);
  });

  it("is well again after a sign, and after a pause that was everybody's", () => {
    for (const again of ["sign", "forgive"] as const) {
      const life = new LifeSigns(0);
      for (let s = 2; s <= 30; s += 2) life.judge(s * 1000, { state: "T", cpuMs: 5 });
      expect(life.judge(32_000, { state: "T", cpuMs: 5 }).kind).toBe("suspect");
      life[again](33_000);
      expect(life.judge(34_000, { state: "S", cpuMs: 5 }).kind).toBe("well");
      expect(life.judge(50_000, { state: "S", cpuMs: 5 }).kind).toBe("well");
    }
  });

  it("is well where the kernel tells nothing", () => {
    const life = new LifeSigns(0);
    expect(life.judge(100_000, null).kind).toBe("well");
    expect(life.judge(200_000, null).kind).toBe("well");
  });
});

describe("restarts", () => {
  it("are limited in any stretch of time, come later and later, and heal with time", () => {
    const budget = new RestartBudget(3);
    expect([0, 1, 2, 3].map((s) => budget.take(s * 1000))).toEqual([500, 1_000, 2_000, null]);
    expect(budget.take(RESTART_WINDOW_MS + 500)).toBe(2_000);
    expect(budget.take(10 * RESTART_WINDOW_MS)).toBe(500);
    expect(new RestartBudget(0).take(0)).toBeNull();
  });
});

describe("the watchdog", () => {
  const iteration: ProgressEvent = { type: "iteration", iteration: 1, maxSteps: 9, metrics: {} };

  it("waits ten median iterations, at least ten minutes, and counts every progress", () => {
    const dog = new Watchdog(0);
    expect(dog.overdue(1e9)).toBeNull(); // before the first iteration a model may load
    for (let i = 0; i <= 10; i++) dog.see(iteration, i * 120_000);
    const last = 10 * 120_000;
    expect(dog.overdue(last + 1_199_000)).toBeNull();
    expect(dog.overdue(last + 1_201_000)).toMatch(/no progress for 20 minutes \(an iteration takes 120 s\)/);
    dog.see({ type: "phase", name: "evaluating", done: 1, total: 9 }, last + 1_201_000);
    expect(dog.overdue(last + 1_300_000)).toBeNull();
  });

  it("of a fast run waits ten minutes, and starts anew with a new learner", () => {
    const dog = new Watchdog(0);
    dog.see(iteration, 1_000);
    dog.see(iteration, 2_000);
    expect(dog.overdue(2_000 + 599_000)).toBeNull();
    expect(dog.overdue(2_000 + 601_000)).not.toBeNull();
    dog.reset(700_000);
    expect(dog.overdue(1e9)).toBeNull();
  });
});
