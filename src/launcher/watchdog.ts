/** Whether a run gets anywhere: time since its last progress, against what its iterations take. */
import type { ProgressEvent } from "../protocol/progress.js";

/** No run is called overdue before this time … */
const LEAST_MS = 10 * 60_000;
/** … or before this many times its median iteration. */
const MEDIANS = 10;
/** Iterations whose median counts. */
const REMEMBERED = 50;

export class Watchdog {
  #progressMs: number;
  #iterationMs: number | null = null;
  #durations: number[] = [];

  constructor(nowMs: number) {
    this.#progressMs = nowMs;
  }

  /** Starts anew: a learner loads its model, or everything stood still for a time. */
  reset(nowMs: number): void {
    this.#progressMs = nowMs;
    this.#iterationMs = null;
  }

  /** Every event of the learner is progress; "alive" is none and is not shown here. */
  see(event: ProgressEvent, nowMs: number): void {
    this.#progressMs = nowMs;
    if (event.type !== "iteration") return;
    if (this.#iterationMs !== null)
      this.#durations = [...this.#durations, nowMs - this.#iterationMs].slice(-REMEMBERED);
    this.#iterationMs = nowMs;
  }

  /** @returns why the run is overdue; null while it is not, and before the first iteration */
  overdue(nowMs: number): string | null {
    if (this.#iterationMs === null) return null;
    const sorted = this.#durations.toSorted((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
    const limit = Math.max(LEAST_MS, MEDIANS * median);
    const passed = nowMs - this.#progressMs;
    if (passed < limit) return null;
    return `no progress for ${Math.round(passed / 60_000)} minutes (an iteration takes ${Math.round(median / 1000)} s)`;
  }
}
