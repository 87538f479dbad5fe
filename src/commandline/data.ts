/**
 * Data sets: real ones and the starter's. Options are parsed here; a command's module is loaded
 * only when it runs.
 */
import { Argument } from "commander";
import type { Command } from "commander";
import type { PrepareGsm8kOptions } from "../commands/prepare-data.js";
import type { PrepareStarterOptions } from "../commands/prepare-starter.js";
import { UserError } from "../errors.js";
import { atLeast, share } from "./arguments.js";

export function addDataCommands(program: Command): void {
  program
    .command("prepare-data")
    .description("write a data set as train, dev and test files")
    .addArgument(new Argument("<name>", "which one").choices(["gsm8k"]))
    .option("--from <dir>", "folder with train.jsonl and test.jsonl (default: download them)")
    .option("--out <dir>", "folder to write", "data/gsm8k")
    .action(async (_name: string, options: PrepareGsm8kOptions) => {
      const { runPrepareGsm8k } = await import("../commands/prepare-data.js");
      await runPrepareGsm8k(options);
    });

  program
    .command("prepare-starter")
    .description("write the corpus of generated problems that the starter model was trained on")
    .requiredOption("--out <file>", "JSONL file")
    .option("--count <n>", "problems", atLeast(1), 40_000)
    .option("--seed <n>", "same count and seed, same bytes", atLeast(0), 1)
    .option("--careful <share>", "share of careful solutions", share, 0.36)
    .option("--terse <share>", "share of terse ones; the rest is careless", share, 0.22)
    .action(async ({ out, count, seed, ...mix }: PrepareStarterOptions) => {
      if (mix.careful + mix.terse > 1)
        throw new UserError(
          `--careful and --terse: expected at most 1 together, found ${mix.careful + mix.terse}. Lower one.`,
        );
      const { writeStarterCorpus } = await import("../commands/prepare-starter.js");
      const styles = writeStarterCorpus(out, count, seed, mix);
      const shares = Object.entries(styles).map(([style, n]) => `${n} ${style}`);
      process.stderr.write(`${out}: ${count} problems (${shares.join(", ")})\n`);
    });
}
