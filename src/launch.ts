#!/usr/bin/env node
/**
 * `node dist/launch.js --algo grpo|ppo`: from a configuration to a trained model.
 * It computes nothing and loads no numeric library.
 * Exit code: 0 when the run ended well, 1 when it failed, 128 + signal number after a signal.
 */
import { fileURLToPath } from "node:url";
import { Command, CommanderError } from "commander";
import { acceptOption, algoOption, atLeast, configOption } from "./cli/options.js";
import { describeConfig } from "./config/keys.js";
import { guarded, isEntry, packageVersion } from "./entry.js";
import { UserError } from "./errors.js";
import { checkDevices, checkInputs, checkMovedModel, modelNotes } from "./launcher/checks.js";
import { checkMemory } from "./launcher/plan/check-memory.js";
import { type LaunchFlags, resolveRun } from "./launcher/resolve-run.js";
import { runAndShow } from "./launcher/run-and-show.js";
import type { SuperviseOptions } from "./launcher/supervise.js";
import { tryRewards } from "./launcher/try-rewards.js";
import { ACCEPT_VARIABLE } from "./run/run-config.js";
import { claimRunDir } from "./run/run-dir.js";
import { hasOwnRewards } from "./tasks/rewards.js";

function command(): Command {
  return new Command("launch")
    .description("Post-trains a language model with GRPO or PPO: a learner and its rollout actors on this machine.")
    .usage("--algo grpo|ppo [options] [--key=value ...]")
    .addOption(algoOption())
    .addOption(configOption())
    .option("--run-dir <dir>", "where everything of this run is written (default: runs/<algo>-<date>-<time>)")
    .option("--max-steps <n>", "training iterations", atLeast(0))
    .option("--seed <n>", "seed of prompt order and sampling", atLeast(0))
    .option("--actors <n>", "rollout actors", atLeast(0))
    .option("--resume [dir]", "continue the run in DIR (or --run-dir; default: the latest run under runs/)")
    .addOption(acceptOption())
    .option("--serial", "one process, strictly on-policy: the reference to compare with")
    .option("--no-plan", "start even when the memory plan says that the run does not fit")
    .option("--dry-run", "print the resolved configuration as JSON and exit")
    .option("--debug", "show stack traces")
    .version(packageVersion(), "--version", "print the version")
    .helpOption("-h, --help", "show this text")
    .allowUnknownOption()
    .allowExcessArguments()
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .addHelpText("after", () => `\n${describeConfig()}`);
}

const built = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const builtScripts = { learner: built("./learner/main.js"), actor: built("./actors/main.js") };

/**
 * Returns the exit code; `scripts` are forked in place of this package's learner and actor.
 * @throws UserError for anything the user can mend before processes are started
 */
export async function launch(
  argv: readonly string[],
  scripts: SuperviseOptions["scripts"] = builtScripts,
): Promise<number> {
  const program = command();
  try {
    program.parse(argv, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return 0;
    throw new UserError(error.message.replace(/^error: /, ""), { cause: error });
  }
  const flags = program.opts<LaunchFlags>();
  const flagNames = program.options.map((option) => option.long!.slice(2));
  const { config: run, notes, runDir, isFinished } = resolveRun(flags, program.args, flagNames);
  if (flags.dryRun) {
    process.stderr.write(notes.map((note) => `${note}\n`).join(""));
    process.stdout.write(`${JSON.stringify(run, null, 2)}\n`);
    return 0;
  }
  if (isFinished) {
    process.stdout.write(notes.map((note) => `${note}\n`).join(""));
    return 0;
  }
  checkInputs(run);
  if (flags.resume !== undefined) await checkMovedModel(runDir, run, flags.acceptChangedInputs === true);
  await checkDevices(run);
  const { refused } = checkMemory(run, run.serial);
  if (refused !== null && flags.plan)
    throw new UserError(
      `${refused}\nAll items: node dist/cli.js plan with the same options. To start all the same: --no-plan`,
    );
  for (const note of [...notes, ...(await modelNotes(run))]) process.stdout.write(`${note}\n`);
  if (flags.resume === undefined && hasOwnRewards(run)) {
    process.stdout.write("trying the reward functions\n");
    await tryRewards(run);
  }
  // by the environment, as every learner needs it that is started again
  if (flags.acceptChangedInputs) process.env[ACCEPT_VARIABLE] = "1";
  const release = claimRunDir(runDir, run);
  return await runAndShow(run, runDir, flags, scripts).finally(release);
}

if (isEntry(import.meta.url))
  process.exitCode = await guarded(() => launch(process.argv.slice(2)), process.argv.includes("--debug"));
