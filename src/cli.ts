#!/usr/bin/env node
/**
 * `node dist/cli.js <command>`: everything except training runs (launch.ts). Parses the command line and hands plain
 * options to the command's module, which is loaded only then, so that `--help` is instant.
 *
 * Exit code: 0, or 1 with one line on stderr.
 */
import { readFileSync } from "node:fs";
import { Argument, Command, CommanderError, InvalidArgumentError, Option } from "commander";
import type {
  CompareOptions,
  DownloadModelOptions,
  EvalOptions,
  InferOptions,
  LogprobsOptions,
  PrepareGsm8kOptions,
  PrepareStarterOptions,
  SftOptions,
} from "./commands/options.js";
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

  program
    .command("setup")
    .description("prepare the native TensorFlow binding (quick when there is nothing to do)")
    .action(async () => {
      const { setup } = await import("./commands/setup.js");
      await setup();
    });

  program
    .command("download-model")
    .description("download a model into the Hugging Face cache and print its folder")
    .argument("[repo]", "owner/name on the hub", "Qwen/Qwen2.5-3B-Instruct")
    .option("--revision <name>", "branch, tag or commit", "main")
    .action(async (repo: string, options: DownloadModelOptions) => {
      const { runDownloadModel } = await import("./commands/download-model.js");
      await runDownloadModel(repo, options);
    });

  program
    .command("prepare-data")
    .description("write a data set as train, dev and test files")
    .addArgument(new Argument("<name>", "which one").choices(["gsm8k"]))
    .option("--from <dir>", "folder with train.jsonl and test.jsonl (default: download them)")
    .option("--out <dir>", "folder to write", "data/gsm8k")
    .action(async (_name: string, options: PrepareGsm8kOptions) => {
      const { runPrepareGsm8k } = await import("./commands/prepare-data.js");
      await runPrepareGsm8k(options);
    });

  program
    .command("sft")
    .description("supervised fine-tuning on worked answers, before reinforcement learning")
    .requiredOption("--model <dir>", "Hugging Face folder to start from, or the hub id of a downloaded model")
    .requiredOption("--data <source>", '"starter", or a JSONL file with question/answer (GSM8K\'s format)')
    .requiredOption("--out <dir>", "folder of the trained model; checkpoints go to its checkpoints/")
    .option("--from-scratch", "random weights; of --model only config.json and tokenizer are read", false)
    .option("--resume", "continue from the last checkpoint in --out", false)
    .option("--max-steps <n>", "optimizer steps", atLeast(1), 1000)
    .option("--batch-size <n>", "examples per step", atLeast(1), 64)
    .option("--learning-rate <rate>", "peak rate of the cosine schedule", above(0), 1e-3)
    .option("--warmup-steps <n>", "steps of linear warm-up", atLeast(0), 50)
    .option("--weight-decay <x>", "decoupled; none on norms and biases", number(0), 0.01)
    .option("--max-grad-norm <x>", "clipping by global norm", above(0), 1)
    .option("--tokens-per-microbatch <n>", "gradient accumulation by token budget", atLeast(1), 16384)
    .option("--save-steps <n>", "checkpoint every N steps; 0 = only at the end", atLeast(0), 500)
    .option("--seed <n>", "seed of the order of examples and of initial weights", atLeast(0), 42)
    .addOption(backendOption())
    .action(async (options: SftOptions) => {
      const { runSft } = await import("./commands/sft.js");
      await runSft(options);
    });

  program
    .command("infer")
    .description("answer one prompt")
    .requiredOption(
      "--model <dir>",
      "Hugging Face folder, such as a checkpoint of a run, or the hub id of a downloaded model",
    )
    .requiredOption("--prompt <text>", "the user's message")
    .option("--system <text>", "system message (default: the chat template's own)")
    .option("--raw", "take the prompt as it is, without the chat template", false)
    .option("--greedy", "the most probable token each time, no sampling", false)
    .option("--temperature <t>", "of sampling (default: the model's generation_config.json)", above(0))
    .option("--max-new-tokens <n>", "tokens", atLeast(1), 256)
    .option("--seed <n>", "seed of sampling", atLeast(0), 42)
    .option("--json", "print prompt_ids, completion_ids and text as JSON", false)
    .addOption(threadsOption())
    .action(async (options: InferOptions) => {
      const { runInfer } = await import("./commands/infer.js");
      await runInfer(options);
    });

  program
    .command("eval")
    .description("sampled and greedy accuracy on held-out problems, with 95 % intervals")
    .requiredOption(
      "--model <dir>",
      "Hugging Face folder, such as a checkpoint of a run, or the hub id of a downloaded model",
    )
    .requiredOption("--data <source>", '"starter" (held-out generated problems), or a JSONL file with question/answer')
    .requiredOption("--out <file>", "JSON file for the result")
    .option("--limit <n>", "only the first N problems (default: all of a file, 512 of starter)", atLeast(1))
    .option("--temperature <t>", "of the sampled answers", above(0), 1)
    .option("--max-new-tokens <n>", "tokens", atLeast(1), 256)
    .option("--system <text>", "system message (default: the chat template's own)")
    .option("--prompt-suffix <text>", "appended to each question", "")
    .option("--seed <n>", "seed of sampling", atLeast(0), 42)
    .addOption(threadsOption())
    .action(async (options: EvalOptions) => {
      const { runEval } = await import("./commands/eval.js");
      await runEval(options);
    });

  program
    .command("compare")
    .description("which of two or more evaluated models is better, if that can be said at all")
    .argument("[files...]", "checkpoints: results of eval on the same questions")
    .option("--a <files...>", "an algorithm: results of eval, one file for each training seed")
    .option("--b <files...>", "the other algorithm, seeds in the same order")
    .option("--json <file>", "write the figures as JSON too")
    .action(async (files: string[], options: CompareOptions) => {
      const { runCompare } = await import("./commands/compare.js");
      runCompare(files, options);
    });

  program
    .command("logprobs")
    .description("log-probabilities of given completions, by the actor's engine or the learner's")
    .requiredOption("--model <dir>", "Hugging Face folder, or the hub id of a downloaded model")
    .requiredOption("--input <file>", 'JSONL: {"prompt_ids": [...], "completion_ids": [...]}')
    .addOption(new Option("--engine <name>", "whose numbers").choices(["actor", "learner"]).makeOptionMandatory())
    .option("--temperature <t>", "divides the logits", above(0), 1)
    .addOption(backendOption())
    .addOption(threadsOption())
    .action(async (options: LogprobsOptions) => {
      const { runLogprobs } = await import("./commands/logprobs.js");
      await runLogprobs(options);
    });

  program
    .command("trajectories")
    .description("the completions of a run with rewards, advantages and weight versions, as JSONL")
    .argument("<run_dir>", "directory of a run")
    .action(async (runDir: string) => {
      const { trajectories } = await import("./commands/trajectories.js");
      await trajectories(runDir);
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
      const { writeStarterCorpus } = await import("./commands/prepare-starter.js");
      const styles = writeStarterCorpus(out, count, seed, mix);
      const shares = Object.entries(styles).map(([style, n]) => `${n} ${style}`);
      process.stderr.write(`${out}: ${count} problems (${shares.join(", ")})\n`);
    });

  for (const command of program.commands) command.option("--debug", "show stack traces");
  return program;
}

const backendOption = () =>
  new Option("--backend <name>", "of TensorFlow.js").choices(["auto", "tensorflow", "wasm", "cpu"]).default("auto");
const threadsOption = () => new Option("--threads <n>", "0 = all cores").argParser(atLeast(0)).default(0);

/** Parses a whole number of at least `least`. */
function atLeast(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || !Number.isSafeInteger(value))
      throw new InvalidArgumentError(`Expected a whole number >= ${least}.`);
    return value;
  };
}

/** Parses a number of at least `least`. */
function number(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value < least)
      throw new InvalidArgumentError(`Expected a number >= ${least}.`);
    return value;
  };
}

/** Parses a share, 0 to 1. */
function share(text: string): number {
  const value = number(0)(text);
  if (value > 1) throw new InvalidArgumentError("Expected a number from 0 to 1.");
  return value;
}

/** Parses a number greater than `limit`. */
function above(limit: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isFinite(value) || value <= limit) throw new InvalidArgumentError(`Expected a number > ${limit}.`);
    return value;
  };
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
    return 0;
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
  process.exitCode = await guarded(() => cli(process.argv.slice(2)), process.argv.includes("--debug"));
}
