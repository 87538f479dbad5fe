/** What every benchmark gets and gives. */
import type { Measured } from "./measure.js";

export interface BenchContext {
  /** Interpreter with the peers in it; null = peers are skipped. */
  readonly python: string | null;
  /** Few repeats of small cases: to see that everything runs, not to be believed. */
  readonly quick: boolean;
  readonly progress: (line: string) => void;
}

export interface CaseResult {
  readonly name: string;
  readonly settings: Readonly<Record<string, string | number>>;
  readonly ours: Measured;
  readonly peer: Measured | null;
  /** ours.median / peer.median */
  readonly ratio: number | null;
}

export interface BenchResult {
  readonly title: string;
  readonly unit: string;
  readonly better: "higher" | "lower";
  /** What stands on the other side; "" where there is none. */
  readonly peerName: string;
  readonly cases: readonly CaseResult[];
  readonly notes: readonly string[];
}

export type Bench = (context: BenchContext) => Promise<BenchResult>;
