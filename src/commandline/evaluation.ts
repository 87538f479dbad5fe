/**
 * Evaluation and what is concluded from it. Options are parsed here; a command's module is loaded
 * only when it runs.
 */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { AnalyzeOptions } from "../commands/analyze.js";
import type { CompareOptions } from "../commands/compare.js";
import type { EvalOptions } from "../commands/eval.js";
import type { ReportOptions } from "../commands/report.js";
import type { StudyOptions } from "../commands/study.js";
import { promptNames } from "../eval/prompt-names.js";
import { type EngineFlags, above, addEngineOptions, atLeast, withEngines } from "./arguments.js";

const modes = ["sampled", "greedy"] as const;

function modeList(text: string): (typeof modes)[number][] {
  const named = text.split(",").map((name) => name.trim());
  const unknown = named.find((name) => !modes.some((mode) => mode === name));
  if (unknown !== undefined) throw new InvalidArgumentError(`Expected ${modes.join(", ")} or both.`);
  return modes.filter((mode) => named.includes(mode));
}

export function addEvaluationCommands(program: Command): void {
  const evaluate = program
    .command("eval")
    .description(
      "answers to held-out problems, sampled and greedy: accuracy with 95 % intervals; goes on where it was cut",
    )
    .requiredOption(
      "--model <dir>",
      "model, checkpoint or adapter folder, a run directory (its last checkpoint), or the hub id of a downloaded model",
    )
    .option("--checkpoint <step>", "another checkpoint of the run directory", atLeast(0))
    .requiredOption(
      "--data <source>",
      '"starter" (generated problems, those a training run is validated on), "starter-test" (others), or a JSONL file with question/answer',
    )
    .requiredOption("--out <dir>", "folder for predictions.jsonl and metrics.json")
    .option("--limit <n>", "only the first N problems (default: all of a file, 512 of the starter's)", atLeast(1))
    .option("--modes <list>", "sampled, greedy, or both, with a comma", modeList, ["sampled", "greedy"])
    .option("--samples <n>", "sampled completions of each question; more than 1 gives pass@k and maj@k", atLeast(1), 1)
    .option("--temperature <t>", "of the sampled answers", above(0), 1)
    .option("--max-new-tokens <n>", "tokens", atLeast(1), 256)
    .addOption(new Option("--prompt <name>", "how questions are put").choices(promptNames).default("default"))
    .option(
      "--system <text>",
      "system message of --prompt default (default: that of the checkpoint's run, else the chat template's own)",
    )
    .option(
      "--prompt-suffix <text>",
      "appended to each question by --prompt default (default: that of the checkpoint's run, else none)",
    )
    .option("--fewshot <file>", "training problems for --prompt lm-eval-5shot: GSM8K's train.jsonl as published")
    .option("--seed <n>", "seed of sampling", atLeast(0), 42)
    .option("--overwrite", "begin anew where --out holds an evaluation of other settings", false);
  addEngineOptions(evaluate, 256).action(async (flags: Omit<EvalOptions, "engines"> & EngineFlags) => {
    await withEngines(flags, async (options) => {
      const { runEval } = await import("../commands/eval.js");
      await runEval(options);
    });
  });

  program
    .command("compare")
    .description("which of two or more evaluated models is better, if that can be said at all")
    .argument("[files...]", "checkpoints: results of eval on the same questions; or the directory of one study")
    .option("--a <files...>", "an algorithm: results of eval, one file for each training seed")
    .option("--b <files...>", "the other algorithm, seeds in the same order")
    .option("--json <file>", "write the figures as JSON too")
    .action(async (files: string[], options: CompareOptions) => {
      const { runCompare } = await import("../commands/compare.js");
      runCompare(files, options);
    });

  program
    .command("analyze")
    .description("why answers are wrong: error classes, slips of arithmetic, and what changed between two evaluations")
    .argument("<predictions>", "predictions.jsonl of eval, or the directory it lies in")
    .argument("[after]", "a second one, of the same questions")
    .option("--json <file>", "write the figures as JSON too")
    .action(async (before: string, after: string | undefined, options: AnalyzeOptions) => {
      const { runAnalyze } = await import("../commands/analyze.js");
      runAnalyze(before, after, options);
    });

  program
    .command("report")
    .description("a study or a run as one page: report.html, with report.md, report.json and the charts beside it")
    .argument("<dir>", "directory of a study or of a run")
    .option("--out <dir>", "folder to write to (default: the directory itself)")
    .action(async (dir: string, options: ReportOptions) => {
      const { runReport } = await import("../commands/report.js");
      runReport(dir, options);
    });

  program
    .command("study")
    .description("the whole experiment: baseline, every algorithm with every seed, evaluation, comparison; resumable")
    .argument("<file>", "YAML, such as configs/study-starter.yaml")
    .option("--out <dir>", "directory of the study (default: studies/<name>)")
    .option("--dry-run", "print the steps and their commands, and run nothing")
    .action(async (file: string, options: StudyOptions) => {
      const { runStudy } = await import("../commands/study.js");
      process.exitCode = await runStudy(file, options);
    });
}
