/** How often a process may be started again: a number in any stretch of time, each time later. */

/** Restarts are counted over this time, so that hours of health make up for old deaths. */
export const RESTART_WINDOW_MS = 10 * 60_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 60_000;

export class RestartBudget {
  readonly #most: number;
  #times: number[] = [];

  /** @param most restarts within RESTART_WINDOW_MS */
  constructor(most: number) {
    this.#most = most;
  }

  /** Restarts that count at this time. */
  used(nowMs: number): number {
    this.#times = this.#times.filter((time) => nowMs - time < RESTART_WINDOW_MS);
    return this.#times.length;
  }

  /** Takes one restart. @returns milliseconds to wait before it; null when none is left */
  take(nowMs: number): number | null {
    const used = this.used(nowMs);
    if (used >= this.#most) return null;
    this.#times.push(nowMs);
    return Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** used);
  }
}
