/** `check-model`: whether a model folder can be trained here, shown on its own answers. */
import { join } from "node:path";
import type { Command } from "commander";
import type { BackendChoice } from "../learner/backend/backend.js";
import type { ModelFiles } from "../model/read-model.js";
import { MODEL, atLeast, backendOption, modelOf, threadsOption } from "./options.js";

interface CheckModelOptions {
  readonly data: string;
  readonly maxNewTokens: number;
  readonly seed: number;
  readonly backend: BackendChoice;
  readonly threads: number;
}

const QUESTIONS = 8;

export function addCheckModel(program: Command): void {
  program
    .command("check-model")
    .description("load a model, print what it is, compare actor with learner on its own answers, and show those")
    .argument("<dir>", MODEL)
    .option(
      "--data <source>",
      '"starter", or a JSONL file with question/answer: where the questions are from',
      "starter",
    )
    .option("--max-new-tokens <n>", "tokens of an answer", atLeast(1), 128)
    .option("--seed <n>", "seed of sampling", atLeast(0), 42)
    .addOption(backendOption())
    .addOption(threadsOption())
    .action(checkModel);
}

/** @throws UserError when the model cannot be loaded, or actor and learner disagree */
async function checkModel(folder: string, options: CheckModelOptions): Promise<void> {
  const { readModel } = await import("../model/read-model.js");
  const { generateAll, startEngine } = await import("../engine/local.js");
  const { answersOf } = await import("../generate/prompting.js");
  const { taskSeed } = await import("../protocol/seeds.js");
  const { loadDataset } = await import("../tasks/dataset.js");
  const { outcomeOf } = await import("../tasks/extract.js");
  const files = readModel(await modelOf(folder));
  const { shape, tokenizer } = files;
  const engine = await startEngine(files, options.threads);
  await describe(files, engine.version.sha256);

  const dataset = loadDataset(options.data, "validation");
  const problems = Array.from({ length: Math.min(QUESTIONS, dataset.size) }, (_, i) => dataset.problem(i));
  const prompts = problems.map(({ question }) => tokenizer.chatPrompt([{ role: "user", content: question }]));
  const requests = prompts.map((promptIds, i) => ({
    requestId: String(i),
    promptIds,
    groupSize: 1,
    seed: taskSeed(options.seed, `check-model-${i}`),
    sampling: {
      temperature: 1,
      maxNewTokens: Math.max(1, Math.min(options.maxNewTokens, shape.maxPositions - promptIds.length)),
      stopIds: tokenizer.stopIds,
    },
  }));
  const groups = await generateAll(engine, requests);
  const answers = groups.map(({ completions }) => completions[0]!);
  await engine.dispose();
  await compare(files, prompts, answers, options);
  for (const [i, { question, answer }] of problems.entries()) {
    const { text, finish_reason, tokens } = answersOf(groups[i]!, files)[0]!;
    console.log(
      `\n${i + 1}. ${question}\n${text.replace(/^/gm, "   ")}\n   [${outcomeOf(text, finish_reason, answer)}; ${tokens} tokens]`,
    );
  }
}

async function describe({ folder, shape, lora }: ModelFiles, sha256: string): Promise<void> {
  const { layoutSize, weightLayout } = await import("../model/layout.js");
  const { readSafetensors } = await import("../model/safetensors/read.js");
  const { whole } = await import("../terminal/format.js");
  const stored = [...readSafetensors(lora === null ? folder : join(folder, "adapter_model.safetensors")).values()];
  const ofAdapter = stored.reduce((sum, { size }) => sum + size, 0);
  const parameters = layoutSize(weightLayout(shape));
  console.log(
    [
      `model       ${folder}`,
      `shape       ${shape.numLayers} layers, hidden ${shape.hiddenSize}, vocabulary ${shape.vocabSize}, context ${shape.maxPositions}`,
      `parameters  ${whole(parameters)}${lora === null ? "" : `, and ${whole(ofAdapter)} of the LoRA adapter`}`,
      `dtype       ${[...new Set(stored.map(({ dtype }) => dtype))].join(", ")} on disk, float32 here`,
      `weights     sha256 ${sha256}`,
    ].join("\n"),
  );
}

async function compare(
  files: ModelFiles,
  prompts: readonly Int32Array[],
  answers: readonly { readonly ids: Int32Array; readonly logprobs: Float32Array }[],
  options: CheckModelOptions,
): Promise<void> {
  const { runConfigSchema } = await import("../config/schema.js");
  const { checkGap, gapOf } = await import("../learner/logprob-gap.js");
  const { scoreSequences } = await import("../learner/score.js");
  const { scientific } = await import("../terminal/format.js");
  const sequences = answers.map(({ ids }, i) => ({ promptIds: prompts[i]!, completion: ids }));
  const learner = await scoreSequences(files, sequences, { ...options, temperature: 1 });
  const gap = gapOf(
    answers.flatMap(({ logprobs }, i) => Array.from(logprobs, (theirs, t) => Math.abs(theirs - learner[i]![t]!))),
  );
  checkGap(gap, runConfigSchema.parse({}).selftest);
  const tokens = answers.reduce((sum, { ids }) => sum + ids.length, 0);
  console.log(
    `self-test   actor and learner agree: largest difference ${scientific(gap!.max)} nats, mean ${scientific(gap!.mean)}, over ${tokens} sampled tokens`,
  );
}
