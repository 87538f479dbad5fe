/** Whether answers grow short and no better: a policy that is paid for something easier. */
import type { Metrics } from "../protocol/progress.js";

/** Iterations of a mean, the first as the latest: fewer are noise. */
const WINDOW = 5;

interface Seen {
  readonly length: number;
  readonly accuracy: number;
}

export class CollapseWatch {
  #first: Seen[] = [];
  #latest: Seen[] = [];
  #told = false;

  /** @returns what to tell, once in a run; null while there is nothing to tell */
  see({ "completions/mean_length": length = NaN, accuracy = NaN }: Metrics): string | null {
    if (this.#told || !Number.isFinite(length + accuracy)) return null;
    if (this.#first.length < WINDOW) this.#first.push({ length, accuracy });
    this.#latest = [...this.#latest, { length, accuracy }].slice(-WINDOW);
    const [first, latest] = [mean(this.#first), mean(this.#latest)];
    if (latest.length >= first.length / 2 || latest.accuracy > first.accuracy) return null;
    this.#told = true;
    const share = ({ accuracy }: Seen): string => `${(100 * accuracy).toFixed(1)} %`;
    return (
      `Answers became short and no better: ${first.length.toFixed(0)} tokens in the first ${WINDOW} iterations, ` +
      `${latest.length.toFixed(0)} in the latest, accuracy ${share(first)} and ${share(latest)}. ` +
      "A reward that is easier to earn than a right answer does this: look at trajectories, and at reward.functions."
    );
  }
}

const mean = (seen: readonly Seen[]): Seen => ({
  length: seen.reduce((sum, { length }) => sum + length, 0) / seen.length,
  accuracy: seen.reduce((sum, { accuracy }) => sum + accuracy, 0) / seen.length,
});
