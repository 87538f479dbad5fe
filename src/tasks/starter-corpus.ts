/** Writes the starter's training corpus, for supervised fine-tuning, in GSM8K's format. */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { writeWhole } from "../files.js";
import { starterCorpus, type CorpusMix } from "./starter.js";

const PROBLEMS_AT_ONCE = 4096;

/**
 * Writes `count` lines {"question", "answer"}; the same arguments give the same bytes.
 * @returns how many solutions of each style were written
 */
export function writeStarterCorpus(
  file: string,
  count: number,
  seed: number,
  mix?: CorpusMix,
): Record<"careful" | "terse" | "careless", number> {
  mkdirSync(dirname(file), { recursive: true });
  const styles = { careful: 0, terse: 0, careless: 0 };
  function* parts(): Generator<Buffer> {
    for (let from = 0; from < count; from += PROBLEMS_AT_ONCE) {
      let lines = "";
      for (let i = from; i < Math.min(count, from + PROBLEMS_AT_ONCE); i++) {
        const { question, answer, style } = starterCorpus(i, seed, mix);
        styles[style]++;
        lines += `${JSON.stringify({ question, answer })}\n`;
      }
      yield Buffer.from(lines);
    }
  }
  writeWhole(file, parts());
  return styles;
}
