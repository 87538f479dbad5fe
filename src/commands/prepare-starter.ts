/** Writes the starter's training corpus (GSM8K's JSONL) for `sft` to learn from. */
import { closeSync, mkdirSync, openSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { starterCorpus, type CorpusMix } from "../tasks/starter.js";

export interface PrepareStarterOptions {
  /** JSONL file. */
  readonly out: string;
  readonly count: number;
  readonly seed: number;
  /** Shares of the styles; the rest is careless. */
  readonly careful: number;
  readonly terse: number;
}

/**
 * Writes `count` lines {"question", "answer"}; the same arguments give the same bytes.
 * The file appears whole or not at all. Returns how many solutions of each style were written.
 */
export function writeStarterCorpus(
  file: string,
  count: number,
  seed: number,
  mix?: CorpusMix,
): Record<"careful" | "terse" | "careless", number> {
  mkdirSync(dirname(file), { recursive: true });
  const temporary = `${file}.tmp-${process.pid}`;
  const styles = { careful: 0, terse: 0, careless: 0 };
  const fd = openSync(temporary, "w");
  try {
    let lines = "";
    for (let i = 0; i < count; i++) {
      const { question, answer, style } = starterCorpus(i, seed, mix);
      styles[style]++;
      lines += `${JSON.stringify({ question, answer })}\n`;
      if (lines.length > 1 << 20 || i === count - 1) {
        writeSync(fd, lines);
        lines = "";
      }
    }
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, file);
  return styles;
}
