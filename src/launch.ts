#!/usr/bin/env node
/**
 * `node dist/launch.js --algo grpo|ppo`: from a configuration to a trained model. Resolves the configuration, makes the
 * run directory, starts learner and actors, and shows how they fare. Computes nothing itself and loads no numeric library.
 *
 * Exit code: 0 when the run ended well, 1 when it failed, 128 + signal number when a signal ended
 * it.
 */
import { existsSync } from "node:fs";
import { availableParallelism, constants } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { describeConfig } from "./config/keys.js";
import { loadConfig, resumeConfig, shortPath, type LoadedConfig } from "./config/load.js";
import type { RunConfig } from "./config/schema.js";
import { guarded, isEntry } from "./entry.js";
import { UserError } from "./errors.js";
import { assignDevices, visibleGpus } from "./launcher/devices.js";
import { checkMemory } from "./launcher/plan/check-memory.js";
import { report } from "./launcher/render.js";
import { checkNewRunDir, checkResumableRunDir, claimRunDir, latestRunDir, newRunDir } from "./run/run-dir.js";
import { readRunConfig } from "./run/config.js";
import { configFile } from "./run/layout.js";
import { supervise, type SuperviseOptions } from "./launcher/supervise.js";
import { planThreads } from "./launcher/threads.js";
import { createView } from "./launcher/view.js";
import { cudaLibraryPath } from "./machine/cuda-libraries.js";
import { actorLibraryPath } from "./machine/onnx-provider.js";
import { smiList } from "./machine/gpus.js";
import { readModelConfig } from "./model/config.js";

/**
 * A signal that comes again within this time is the same request: SLURM signals every process of a
 * job, and npm and Apptainer, which are among them, pass on what they get.
 */
const SAME_SIGNAL_MS = 1000;

interface LaunchFlags {
  algo?: RunConfig["algo"];
  config?: string[];
  runDir?: string;
  maxSteps?: number;
  seed?: number;
  actors?: number;
  resume?: string | true;
  dryRun?: true;
  /** False with --no-plan. */
  plan: boolean;
  serial?: true;
  debug?: true;
}

function command(): Command {
  return new Command("launch")
    .description("Post-trains a language model with GRPO or PPO: a learner and its rollout actors on this machine.")
    .usage("--algo grpo|ppo [options] [--key=value ...]")
    .addOption(new Option("--algo <name>", "algorithm (default: grpo)").choices(["grpo", "ppo"]))
    .option(
      "--config <file>",
      "YAML configuration; may be repeated, later files win (default: configs/starter.yaml)",
      (file, files: string[] | undefined) => [...(files ?? []), file],
    )
    .option("--run-dir <dir>", "where everything of this run is written (default: runs/<algo>-<date>-<time>)")
    .option("--max-steps <n>", "training iterations", integer)
    .option("--seed <n>", "seed of prompt order and sampling", integer)
    .option("--actors <n>", "rollout actors", integer)
    .option("--resume [dir]", "continue the run in DIR (or --run-dir; default: the latest run under runs/)")
    .option("--serial", "one process, strictly on-policy: the reference to compare with")
    .option("--no-plan", "start even when the memory plan says that the run does not fit")
    .option("--dry-run", "print the resolved configuration as JSON and exit")
    .option("--debug", "show stack traces")
    .helpOption("--help", "show this text")
    .allowUnknownOption()
    .allowExcessArguments()
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .addHelpText("after", () => `\n${describeConfig()}`);
}

function integer(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("Expected a whole number.");
  return Number(text);
}

/**
 * Runs the launcher.
 * @param scripts what to fork in place of this package's learner and actor
 * @returns the exit code
 * @throws UserError for anything the user can mend before processes are started
 */
export async function launch(
  argv: readonly string[],
  scripts: SuperviseOptions["scripts"] = builtScripts(),
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
  const { config, notes, runDir } = resolveRun(
    flags,
    program.args,
    program.options.map((option) => option.long!.slice(2)),
  );
  if (flags.dryRun) {
    process.stderr.write(notes.map((note) => `${note}\n`).join(""));
    process.stdout.write(`${JSON.stringify(config, null, 2)}\n`);
    return 0;
  }
  checkInputs(config);
  await checkDevices(config);
  const { refused } = checkMemory(config, flags.serial === true);
  if (refused !== null && flags.plan)
    throw new UserError(
      `${refused}\nAll items: node dist/cli.js plan with the same options. To start all the same: --no-plan`,
    );
  for (const note of notes) process.stdout.write(`${note}\n`);
  const release = claimRunDir(runDir, config);
  try {
    return await runAndShow(config, runDir, flags, scripts);
  } finally {
    release();
  }
}

function builtScripts(): SuperviseOptions["scripts"] {
  const built = (path: string) => fileURLToPath(new URL(path, import.meta.url));
  return { learner: built("./learner/main.js"), actor: built("./actors/main.js") };
}

/** Configuration and directory of a new or a continued run. */
function resolveRun(
  flags: LaunchFlags,
  words: readonly string[],
  flagNames: readonly string[],
): Pick<LoadedConfig, "config" | "notes"> & { runDir: string } {
  const cwd = process.cwd();
  const overrides = [...words, ...shorthands(flags)];
  if (flags.resume !== undefined) {
    if (flags.config !== undefined)
      throw new UserError("--resume takes the configuration of the run it continues; remove --config.");
    const named = flags.resume === true ? flags.runDir : flags.resume;
    const runDir = named === undefined ? latestRunDir(cwd) : resolve(cwd, named);
    checkResumableRunDir(runDir);
    const loaded = resumeConfig(readRunConfig(configFile(runDir)), overrides, flagNames);
    if (flags.algo !== undefined && flags.algo !== loaded.config.algo)
      throw new UserError(
        `--algo ${flags.algo}: ${shortPath(runDir)} is a run of ${loaded.config.algo}. Remove --algo, or start a new run.`,
      );
    return {
      ...loaded,
      config: { ...loaded.config, run_dir: runDir },
      notes: [`Continuing ${shortPath(runDir)}`, ...loaded.notes],
      runDir,
    };
  }
  if (flags.runDir !== undefined) overrides.push(`--run_dir=${JSON.stringify(flags.runDir)}`);
  const loaded = loadConfig({ algo: flags.algo, files: flags.config ?? [], overrides, flags: flagNames, cwd });
  const runDir = loaded.config.run_dir ?? newRunDir(loaded.config.algo, cwd);
  checkNewRunDir(runDir);
  return { ...loaded, config: { ...loaded.config, run_dir: runDir }, runDir };
}

/** Flags that stand for configuration keys. */
function shorthands({ maxSteps, seed, actors }: LaunchFlags): string[] {
  return Object.entries({ max_steps: maxSteps, seed, "actors.num": actors }).flatMap(([key, value]) =>
    value === undefined ? [] : [`--${key}=${value}`],
  );
}

/** Finds missing files and unsupported models before anything is started or written. */
function checkInputs(config: RunConfig): void {
  const { maxPositions } = readModelConfig(config.model.path);
  if (config.max_completion_length >= maxPositions)
    throw new UserError(
      `max_completion_length (${config.max_completion_length}) leaves no room for a prompt: ${config.model.path} holds ${maxPositions} tokens. Lower it.`,
    );
  for (const key of ["train", "validation"] as const) {
    const source = config.data[key];
    if (source !== "starter" && !existsSync(source))
      throw new UserError(
        `data.${key}: expected "starter" or a JSONL file, found nothing at ${source}. Correct the path.`,
      );
  }
}

/**
 * CUDA that was asked for and cannot be used ends the run here, with what is missing. `auto` takes
 * what there is.
 */
async function checkDevices(config: RunConfig): Promise<void> {
  const asked = (["learner", "actors"] as const).filter((side) => config[side].device === "cuda");
  if (asked.length === 0) return;
  const { whyNoCuda } = await import("./doctor/why-no-cuda.js");
  const obstacle = await whyNoCuda(asked);
  if (obstacle !== null)
    throw new UserError(
      `${asked.map((side) => `${side}.device=cuda`).join(" and ")}: CUDA cannot be used on this machine.\n${obstacle.report}`,
    );
}

/** Supervises the processes under a view and under signals. */
async function runAndShow(
  config: RunConfig,
  runDir: string,
  flags: LaunchFlags,
  scripts: SuperviseOptions["scripts"],
): Promise<number> {
  const serial = flags.serial === true;
  const threads = planThreads(availableParallelism(), config, serial);
  const devices = assignDevices(visibleGpus(process.env, smiList()), config, serial);
  const header = {
    runDir: shortPath(runDir),
    algo: config.algo,
    model: shortPath(config.model.path),
    serial,
    numActors: config.actors.num,
    threads,
  };
  const view = createView(process.stdout, header, config.max_steps);
  const run = supervise({
    runDir,
    actors: config.actors,
    threads,
    devices,
    libraryPath: { learner: cudaLibraryPath("12"), actor: actorLibraryPath() },
    scripts,
    serial,
    resume: flags.resume !== undefined,
    debug: flags.debug === true,
    onEvent: view.event,
    onActors: view.actors,
  });

  let signalCode: number | undefined;
  let signalledAt = 0;
  const onSignal = (signal: NodeJS.Signals) => {
    if (signalCode !== undefined) {
      if (performance.now() - signalledAt > SAME_SIGNAL_MS) run.kill();
      return;
    }
    signalledAt = performance.now();
    signalCode = 128 + constants.signals[signal];
    view.note(`${signal}: writing a checkpoint, then stopping. Once more kills everything at once.`);
    run.stop();
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, onSignal);
  // a program that forked the launcher, such as `study`, and has died meanwhile
  const onOrphaned = () => onSignal("SIGTERM");
  process.on("disconnect", onOrphaned);
  const { summary, failure } = await run.ended;
  for (const signal of signals) process.off(signal, onSignal);
  process.off("disconnect", onOrphaned);

  view.close();
  if (summary !== undefined) process.stdout.write(`${report(summary, shortPath(runDir))}\n`);
  if (failure !== undefined) process.stderr.write(`error: ${failure}\n`);
  return signalCode ?? (failure === undefined ? 0 : 1);
}

if (isEntry(import.meta.url))
  process.exitCode = await guarded(() => launch(process.argv.slice(2)), process.argv.includes("--debug"));
