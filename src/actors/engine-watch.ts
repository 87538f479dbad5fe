/** Notices an engine that hangs: it has work, does not move, and this process computes nothing. */

/** A GPU computes without the CPU, and a kernel's first compilation takes minutes. */
export const ENGINE_MS = { cpu: 30_000, cuda: 600_000 };
/** Below this share of one core nothing computes. */
const COMPUTES = 0.1;

export class EngineWatch {
  readonly #limitMs: number;
  #moved = { atMs: performance.now(), cpuMs: cpuMs() };

  constructor(limitMs: number = ENGINE_MS.cpu) {
    this.#limitMs = limitMs;
  }

  /** The engine has moved, or has no work. */
  mark(): void {
    this.#moved = { atMs: performance.now(), cpuMs: cpuMs() };
  }

  /** @returns seconds for which the engine has hung; null while it does not */
  hung(nowMs: number): number | null {
    const passed = nowMs - this.#moved.atMs;
    if (passed < this.#limitMs || cpuMs() - this.#moved.cpuMs > COMPUTES * passed) return null;
    return Math.round(passed / 1000);
  }
}

/** CPU time of all threads of this process, in milliseconds. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
