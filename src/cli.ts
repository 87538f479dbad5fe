#!/usr/bin/env node
/**
 * `node dist/cli.js <command>`: everything except training runs (launch.ts). Parses the command
 * line and hands plain options to the command's module, which is loaded only then, so that `--help`
 * is instant.
 *
 * Exit code: 0, or 1 with one line on stderr.
 */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { addDataCommands } from "./commandline/data.js";
import { addEvaluationCommands } from "./commandline/evaluation.js";
import { addModelCommands } from "./commandline/models.js";
import { addRunCommands } from "./commandline/runs.js";
import { guarded, isEntry } from "./entry.js";
import { UserError } from "./errors.js";

/** The whole command line. */
export function createProgram(): Command {
  const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  const program = new Command("finellama")
    .description("Companions of a training run. The run itself: node dist/launch.js --help")
    .version(version, "--version", "print the version")
    .helpOption("--help", "show this text")
    .helpCommand(false)
    // commands inherit both: errors are thrown, and told by cli() alone
    .exitOverride()
    .configureOutput({ writeErr: () => {} });

  addModelCommands(program);
  addDataCommands(program);
  addEvaluationCommands(program);
  addRunCommands(program);

  for (const command of program.commands) command.option("--debug", "show stack traces");
  return program;
}

/**
 * Runs a command.
 * @returns the exit code
 * @throws UserError for a command line that is not understood, and whatever the command throws
 */
export async function cli(argv: readonly string[]): Promise<number> {
  const program = createProgram();
  try {
    await program.parseAsync(argv, { from: "user" });
    return Number(process.exitCode ?? 0); // set by a command whose answer is a "no", or that a signal has ended
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return 0;
    if (error.code !== "commander.help") throw new UserError(error.message.replace(/^error: /, ""), { cause: error });
    process.stderr.write(program.helpInformation());
    return 1;
  }
}

if (isEntry(import.meta.url)) {
  // a reader that has seen enough (`| head`) is no failure
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    process.exit(0);
  });
  // forked by `study`, which has died: nobody waits for the result
  process.once("disconnect", () => process.exit(1));
  process.channel?.unref();
  process.exitCode = await guarded(() => cli(process.argv.slice(2)), process.argv.includes("--debug"));
}
