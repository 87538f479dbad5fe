#!/usr/bin/env node
/** Every command; training is launch.ts. A file of cli/ loads its job only when it runs. */
import { Command, CommanderError } from "commander";
import { addAnalyze } from "./cli/analyze.js";
import { addCheckModel } from "./cli/check-model.js";
import { addCompare } from "./cli/compare.js";
import { addDoctor } from "./cli/doctor.js";
import { addDownloadModel } from "./cli/download-model.js";
import { addEval } from "./cli/eval.js";
import { addExport } from "./cli/export.js";
import { addInfer } from "./cli/infer.js";
import { addLogprobs } from "./cli/logprobs.js";
import { addPlan } from "./cli/plan.js";
import { addPrepareData } from "./cli/prepare-data.js";
import { addPrepareStarter } from "./cli/prepare-starter.js";
import { addReplay } from "./cli/replay.js";
import { addReport } from "./cli/report.js";
import { addServe } from "./cli/serve.js";
import { addSetup } from "./cli/setup.js";
import { addSft } from "./cli/sft.js";
import { addStatus } from "./cli/status.js";
import { addStudy } from "./cli/study.js";
import { addTrajectories } from "./cli/trajectories.js";
import { guarded, isEntry, packageVersion } from "./entry.js";
import { UserError } from "./errors.js";

/** In the order in which --help lists them. */
const commands = [
  addSetup,
  addDoctor,
  addDownloadModel,
  addInfer,
  addCheckModel,
  addExport,
  addServe,
  addLogprobs,
  addSft,
  addPrepareData,
  addPrepareStarter,
  addEval,
  addCompare,
  addAnalyze,
  addReport,
  addStudy,
  addPlan,
  addTrajectories,
  addReplay,
  addStatus,
];

/** The whole command line. */
export function createProgram(): Command {
  const program = new Command("finellama")
    .description("Trains language models with GRPO and PPO, and looks at what came of it.")
    .version(packageVersion(), "--version", "print the version")
    .helpOption("-h, --help", "show this text")
    // the first column is wide: text beside it is wrapped down to this width, else cut in mid-word
    .configureHelp({ minWidthToWrap: 20 })
    .helpCommand("help [command]", "show the text of a command")
    // commands inherit both: errors are thrown, and only cli() reports them
    .exitOverride()
    .configureOutput({ writeErr: () => {} });

  program.command("train").description("trains a model: the same as node dist/launch.js; its options: train --help");
  for (const add of commands) add(program);

  for (const command of program.commands) command.option("--debug", "show stack traces");
  return program;
}

/** Returns the exit code. @throws UserError for a command line that is not understood */
export async function cli(argv: readonly string[]): Promise<number> {
  const training = argv[0] === "train" ? argv.slice(1) : argv.join(" ") === "help train" ? ["--help"] : null;
  if (training !== null) return (await import("./launch.js")).launch(training);
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
