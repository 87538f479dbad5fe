/**
 * What the hub, folders and models are asked for: setup, download, inference. Options are parsed
 * here; a command's module is loaded only when it runs.
 */
import { Option } from "commander";
import type { Command } from "commander";
import type { CheckModelOptions } from "../commands/check-model.js";
import type { DoctorOptions } from "../commands/doctor.js";
import type { DownloadModelOptions } from "../commands/download-model.js";
import type { ExportOptions } from "../commands/export.js";
import type { InferOptions } from "../commands/infer.js";
import type { LogprobsOptions } from "../commands/logprobs.js";
import type { ServeOptions } from "../commands/serve.js";
import type { SetupOptions } from "../commands/setup.js";
import type { SftOptions } from "../commands/sft.js";
import { UserError } from "../errors.js";
import {
  type EngineFlags,
  above,
  addEngineOptions,
  atLeast,
  backendOption,
  memorySize,
  number,
  threadsOption,
  withEngines,
} from "./arguments.js";

export function addModelCommands(program: Command): void {
  program
    .command("setup")
    .description("prepare the native TensorFlow binding (quick when there is nothing to do)")
    .option("--cuda", "prepare learner and actors for NVIDIA GPUs instead: about 3.3 GB to download, once", false)
    .addOption(
      new Option("--actor-cuda <major>", "CUDA of ONNX Runtime's provider: 12 from NuGet, 13 from PyPI (driver >= 580)")
        .choices(["12", "13"])
        .default("12"),
    )
    .option("--dry-run", "with --cuda: list what would be downloaded, and where to", false)
    .action(async (options: SetupOptions) => {
      const { setup } = await import("../commands/setup.js");
      await setup(options);
    });

  program
    .command("doctor")
    .description("what this machine has for learner and actors, and what is missing for CUDA")
    .option("--cuda", "exit 1 when CUDA cannot be used", false)
    .option("--json", "everything that was found, as JSON", false)
    .action(async (options: DoctorOptions) => {
      const { doctor } = await import("../commands/doctor.js");
      await doctor(options);
    });

  program
    .command("download-model")
    .description("download a model into the Hugging Face cache and print its folder")
    .argument("[repo]", "owner/name on the hub", "Qwen/Qwen2.5-3B-Instruct")
    .option("--revision <name>", "branch, tag or commit", "main")
    .action(async (repo: string, options: DownloadModelOptions) => {
      const { runDownloadModel } = await import("../commands/download-model.js");
      await runDownloadModel(repo, options);
    });

  const infer = program
    .command("infer")
    .description("answer one prompt, or each line of a file (resumable)")
    .argument("[model]", "Hugging Face folder, such as a checkpoint of a run, PEFT adapter folder, or a hub id")
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
    .option("--system <text>", "system message, where a line has none of its own (default: the chat template's)")
    .option("--raw", "take prompts as they are, without the chat template", false)
    .option("-n, --samples <n>", "answers to each prompt", atLeast(1), 1)
    .option("--greedy", "the most probable token each time, no sampling", false)
    .option("--temperature <t>", "of sampling (default: the model's generation_config.json)", above(0))
    .option("--max-new-tokens <n>", "tokens", atLeast(1), 256)
    .option("--seed <n>", "seed of sampling", atLeast(0), 42)
    .addOption(new Option("--stream", "print the text as it comes").default(false).conflicts("json"))
    .option("--json", "print prompt_ids, completion_ids, text and more as JSON", false);
  addEngineOptions(infer, 256).action(
    async (
      model: string | undefined,
      flags: Omit<InferOptions, "engines" | "model"> & EngineFlags & { model?: string },
    ) => {
      if (model !== undefined && flags.model !== undefined)
        throw new UserError("infer: expected one model, found it as an argument and as --model. Leave one out.");
      const named = model ?? flags.model;
      if (named === undefined) throw new UserError("infer: expected a model. Name its folder or hub id: infer MODEL …");
      await withEngines({ ...flags, model: named }, async (options) => {
        const { runInfer } = await import("../commands/infer.js");
        await runInfer(options);
      });
    },
  );

  program
    .command("check-model")
    .description("load a model, print what it is, compare actor with learner on its own answers, and show those")
    .argument("<dir>", "Hugging Face folder, such as a checkpoint of a run, or the hub id of a downloaded model")
    .option(
      "--data <source>",
      '"starter", or a JSONL file with question/answer: where the questions are from',
      "starter",
    )
    .option("--max-new-tokens <n>", "tokens of an answer", atLeast(1), 128)
    .option("--seed <n>", "seed of sampling", atLeast(0), 42)
    .addOption(backendOption())
    .addOption(threadsOption())
    .action(async (dir: string, options: CheckModelOptions) => {
      const { runCheckModel } = await import("../commands/check-model.js");
      await runCheckModel(dir, options);
    });

  program
    .command("export")
    .description(
      "write a model, checkpoint or adapter as a Hugging Face folder for other programs, and print its sha256s",
    )
    .argument("<model>", "Hugging Face folder, checkpoint, PEFT adapter folder, or the hub id of a downloaded model")
    .requiredOption("--out <dir>", "folder to make")
    .option("--merge", "put an adapter into its base (without: an adapter stays one, in PEFT's format)", false)
    .addOption(
      new Option("--dtype <name>", "of the stored weights (default: bf16; fp32 for an adapter that stays one)").choices(
        ["bf16", "fp32", "fp16"],
      ),
    )
    .addOption(
      new Option("--max-shard-size <size>", "larger weights become several files")
        .argParser(memorySize)
        .default(5e9, "5GB"),
    )
    .option("--force", "replace a model that lies in --out", false)
    .addOption(threadsOption())
    .action(async (model: string, options: ExportOptions) => {
      const { runExport } = await import("../commands/export.js");
      await runExport(model, options);
    });

  const serve = program
    .command("serve")
    .description("answer HTTP requests as OpenAI's API does: completions, chat completions, models")
    .argument("<model>", "Hugging Face folder, PEFT adapter folder, or the hub id of a downloaded model")
    .option("--host <address>", "to listen on; another than loopback needs an API key", "127.0.0.1")
    .option("--port <n>", "0 = any free one", atLeast(0), 8000)
    .option(
      "--api-key <key>",
      "clients must send it as a bearer token (default: FINELLAMA_API_KEY, which ps does not show)",
    )
    .option("--model-name <name>", "what requests call the model (default: <model> as given)")
    .option("--max-queue <n>", "completions that may wait; beyond, requests get status 429", atLeast(0), 256);
  addEngineOptions(serve, 64).action(async (model: string, flags: Omit<ServeOptions, "engines"> & EngineFlags) => {
    await withEngines(flags, async (options) => {
      const { runServe } = await import("../commands/serve.js");
      await runServe(model, options);
    });
  });

  program
    .command("logprobs")
    .description("log-probabilities of given completions, by the actor's engine or the learner's")
    .requiredOption("--model <dir>", "Hugging Face folder, PEFT adapter folder, or the hub id of a downloaded model")
    .requiredOption("--input <file>", 'JSONL: {"prompt_ids": [...], "completion_ids": [...]}')
    .addOption(new Option("--engine <name>", "whose numbers").choices(["actor", "learner"]).makeOptionMandatory())
    .option("--temperature <t>", "divides the logits", above(0), 1)
    .addOption(backendOption())
    .addOption(threadsOption())
    .action(async (options: LogprobsOptions) => {
      const { runLogprobs } = await import("../commands/logprobs.js");
      await runLogprobs(options);
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
      const { runSft } = await import("../commands/sft.js");
      await runSft(options);
    });
}
