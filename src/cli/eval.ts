/** `eval`: a model's answers to held-out problems. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { EvalOptions } from "../eval/evaluate.js";
import { type Mode, modes, promptNames } from "../eval/folder/names.js";
import { type EngineFlags, above, addEngineOptions, atLeast, withEngines } from "./options.js";

export function addEval(program: Command): void {
  const command = program
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
  addEngineOptions(command, 256).action(async (flags: Omit<EvalOptions, "engines"> & EngineFlags) => {
    await withEngines(flags, async (options) => {
      const { evaluate } = await import("../eval/evaluate.js");
      await evaluate(options);
    });
  });
}

function modeList(text: string): Mode[] {
  const named = text.split(",").map((name) => name.trim());
  if (named.some((name) => !modes.some((mode) => mode === name)))
    throw new InvalidArgumentError(`Expected ${modes.join(", ")} or both.`);
  return modes.filter((mode) => named.includes(mode));
}
