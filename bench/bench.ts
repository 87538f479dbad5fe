/** What every benchmark gets and gives. */
import type { Comparison } from "./measure.js";

export interface BenchContext {
  /** Interpreter with the peers in it; null = peers are skipped. */
  readonly python: string | null;
  /** Whether that interpreter has llama.cpp too. */
  readonly llama: boolean;
  /** Folder of SmolLM2-135M in Hugging Face's format; null = not there. */
  readonly smollm2: string | null;
  /** Folder of Qwen2.5-Coder-0.5B-Instruct; null = not there. */
  readonly qwen: string | null;
  /** Folder with GSM8K's train.jsonl; null = not there, and the starter's problems stand in. */
  readonly gsm8k: string | null;
  /** Few repeats of small cases: to see that everything runs, not to be believed. */
  readonly quick: boolean;
  readonly progress: (line: string) => void;
}

export interface CaseResult extends Comparison {
  readonly name: string;
  readonly settings: Readonly<Record<string, string | number>>;
}

/** Lines over one pair of axes. */
export interface Curves {
  readonly title: string;
  readonly xName: string;
  readonly yName: string;
  readonly logX?: boolean;
  readonly logY?: boolean;
  readonly lines: readonly { readonly name: string; readonly points: readonly (readonly [x: number, y: number])[] }[];
}

export interface BenchResult {
  readonly title: string;
  readonly unit: string;
  readonly better: "higher" | "lower";
  /** What stands on the other sides, in the order of the table; empty where there is none. */
  readonly peerNames: readonly string[];
  readonly cases: readonly CaseResult[];
  readonly notes: readonly string[];
  /** Drawn instead of bars. */
  readonly curves?: readonly Curves[];
}

/** Why a benchmark cannot run here. */
export interface Skipped {
  readonly skipped: string;
}

export type Bench = (context: BenchContext) => Promise<BenchResult | Skipped>;
