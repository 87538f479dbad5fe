/** `prepare-starter`: writes the starter's training corpus for `sft` to learn from. */
import type { Command } from "commander";
import { UserError } from "../errors.js";
import { atLeast, share } from "./options.js";

interface Flags {
  readonly out: string;
  readonly count: number;
  readonly seed: number;
  readonly careful: number;
  readonly terse: number;
}

export function addPrepareStarter(program: Command): void {
  program
    .command("prepare-starter")
    .description("write the corpus of generated problems that the starter model was trained on")
    .requiredOption("--out <file>", "JSONL file")
    .option("--count <n>", "problems", atLeast(1), 40_000)
    .option("--seed <n>", "same count and seed, same bytes", atLeast(0), 1)
    .option("--careful <share>", "share of careful solutions", share, 0.36)
    .option("--terse <share>", "share of terse ones; the rest is careless", share, 0.22)
    .action(async ({ out, count, seed, ...mix }: Flags) => {
      if (mix.careful + mix.terse > 1)
        throw new UserError(
          `--careful and --terse: expected at most 1 together, found ${mix.careful + mix.terse}. Lower one.`,
        );
      const { writeStarterCorpus } = await import("../tasks/starter-corpus.js");
      const styles = writeStarterCorpus(out, count, seed, mix);
      const shares = Object.entries(styles).map(([style, n]) => `${n} ${style}`);
      process.stderr.write(`${out}: ${count} problems (${shares.join(", ")})\n`);
    });
}
