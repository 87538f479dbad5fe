/** `infer`: answers one prompt, or each line of a file. */
import { type Command, Option } from "commander";
import { UserError } from "../errors.js";
import type { InferOptions } from "../generate/run-infer.js";
import { type EngineFlags, above, addEngineOptions, atLeast, modelOf, withEngines } from "./options.js";

type Flags = Omit<InferOptions, "engines" | "model"> & EngineFlags & { model?: string };

export function addInfer(program: Command): void {
  const infer = program
    .command("infer")
    .description("answer one prompt, or each line of a file (resumable)")
    .argument("[model]", "Hugging Face folder, run directory, PEFT adapter folder, or a hub id")
    .option("--model <dir>", "the same")
    .addOption(new Option("--prompt <text>", "the user's message").conflicts("input"))
    .addOption(
      new Option("--input <file>", "JSONL; of each line prompt, messages, or question is answered").conflicts([
        "json",
        "stream",
      ]),
    )
    .option("--output <file>", "of --input: JSONL, one line for each line; goes on where it was cut")
    .option("--overwrite", "begin anew where --output holds something else", false)
    .option("--retry-errors", "ask lines again that --output has an error for")
    .option("--system <text>", "system message, where a line has none of its own (default: the chat template's)")
    .option("--raw", "take prompts as they are, without the chat template", false)
    .option("-n, --samples <n>", "answers to each prompt", atLeast(1), 1)
    .option("--greedy", "the most probable token each time, no sampling", false)
    .option("--temperature <t>", "of sampling (default: the model's generation_config.json)", above(0))
    .option("--max-new-tokens <n>", "tokens", atLeast(1), 256)
    .option("--seed <n>", "seed of sampling", atLeast(0), 42)
    .addOption(new Option("--stream", "print the text as it comes").default(false).conflicts("json"))
    .option("--json", "print prompt_ids, completion_ids, text and more as JSON", false);
  addEngineOptions(infer, 256).action(async (model: string | undefined, flags: Flags) => {
    if (model !== undefined && flags.model !== undefined)
      throw new UserError("infer: expected one model, found it as an argument and as --model. Leave one out.");
    const named = model ?? flags.model;
    if (named === undefined) throw new UserError("infer: expected a model. Name its folder or hub id: infer MODEL …");
    await withEngines({ ...flags, model: await modelOf(named) }, async (options) => {
      const { runInfer } = await import("../generate/run-infer.js");
      const { showProgress } = await import("../terminal/progress-bar.js");
      await runInfer(options, (total, present) => showProgress({ name: "infer", total, present }));
    });
  });
}
