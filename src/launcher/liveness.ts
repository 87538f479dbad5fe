/** Whether a child is alive: life signs, CPU time, kernel state. Who computes does not hang. */
import type { ProcessStat } from "../protocol/process-stat.js";
import { LIFE_SIGN_MS } from "../protocol/progress.js";

/** Without a life sign for so long, a child that does not compute is named … */
const SUSPECT_MS = 20_000;
/** … and after so long it is killed: stopped from outside, or standing still. */
const STOPPED_MS = 40_000;
const STANDING_MS = 120_000;
/** A process that waits for a disk is given longer: a checkpoint may go to a slow one. */
const DISK_MS = 600_000;
/** Below this share of one core a process does not compute. */
const COMPUTES = 0.05;

export type LifeVerdict =
  { readonly kind: "well" } | { readonly kind: "suspect" | "hung"; readonly seconds: number; readonly why: string };

/** Judges one child over time. All times are monotonic milliseconds. */
export class LifeSigns {
  #signMs: number;
  #sample: { readonly atMs: number; readonly cpuMs: number } | null = null;
  readonly #busyLimitMs: number;
  /** Since when it has not computed; null while it does. */
  #idleSinceMs: number | null = null;

  /** @param busyLimitMs how long a main thread may compute without a life sign */
  constructor(nowMs: number, busyLimitMs = Infinity) {
    this.#signMs = nowMs;
    this.#busyLimitMs = busyLimitMs;
  }

  sign(nowMs: number): void {
    this.#signMs = nowMs;
    this.#idleSinceMs = null;
  }

  /** Forgets the time in which this very process stood still, such as a suspended machine's. */
  forgive(nowMs: number): void {
    this.sign(nowMs);
    this.#sample = null;
  }

  /** @param sample null where the kernel tells nothing: then only life signs count */
  judge(nowMs: number, sample: Pick<ProcessStat, "state" | "cpuMs"> | null): LifeVerdict {
    const before = this.#sample;
    this.#sample = sample && { atMs: nowMs, cpuMs: sample.cpuMs };
    if (nowMs - this.#signMs < 2 * LIFE_SIGN_MS || sample === null || before === null) return { kind: "well" };
    const computes = sample.cpuMs - before.cpuMs > COMPUTES * (nowMs - before.atMs);
    if (computes) {
      this.#idleSinceMs = null;
      const busyMs = nowMs - this.#signMs;
      if (busyMs < SUSPECT_MS || this.#busyLimitMs === Infinity) return { kind: "well" };
      const why = "its main thread is busy (a reward function that does not return?)";
      return { kind: busyMs < this.#busyLimitMs ? "suspect" : "hung", seconds: Math.round(busyMs / 1000), why };
    }
    this.#idleSinceMs ??= before.atMs;
    const idleMs = nowMs - Math.max(this.#idleSinceMs, this.#signMs);
    if (idleMs < SUSPECT_MS) return { kind: "well" };
    const isStopped = sample.state === "T" || sample.state === "t";
    const limit = isStopped ? STOPPED_MS : sample.state === "D" ? DISK_MS : STANDING_MS;
    const why = isStopped ? "it is stopped" : sample.state === "D" ? "it waits for a disk" : "it stands still";
    return { kind: idleMs < limit ? "suspect" : "hung", seconds: Math.round(idleMs / 1000), why };
  }
}
