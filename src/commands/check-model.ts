/**
 * `check-model`: whether a model folder can be trained here. Loads it on both sides, prints what it
 * is, compares actor with learner on the tokens it samples (the start-up self-test of a run), and
 * shows those answers.
 */
import { join } from "node:path";
import { generateAll, startEngine } from "../engine/local.js";
import { runConfigSchema } from "../config/schema.js";
import { checkGap, gapOf } from "../learner/logprob-gap.js";
import { layoutSize, weightLayout } from "../model/layout.js";
import { readModel } from "../model/read-model.js";
import { readSafetensors } from "../model/safetensors/read.js";
import { taskSeed } from "../protocol/seeds.js";
import { loadDataset } from "../tasks/dataset.js";
import { outcomeOf } from "../tasks/extract.js";
import { type LogprobsOptions, fromLearner } from "./logprobs.js";

export interface CheckModelOptions {
  readonly data: string;
  readonly maxNewTokens: number;
  readonly seed: number;
  readonly backend: LogprobsOptions["backend"];
  /** 0 = all cores. */
  readonly threads: number;
}

const QUESTIONS = 8;

/** @throws UserError when the model cannot be loaded, or actor and learner disagree */
export async function runCheckModel(spec: string, options: CheckModelOptions): Promise<void> {
  const model = readModel(spec);
  const { folder, config, tokenizer } = model;
  const engine = await startEngine(model, options.threads);
  const isAdapter = model.lora !== null;
  const stored = [...readSafetensors(isAdapter ? join(folder, "adapter_model.safetensors") : folder).values()];
  const dtypes = [...new Set(stored.map(({ dtype }) => dtype))].join(", ");
  const parameters = layoutSize(weightLayout(config));
  console.log(
    [
      `model       ${folder}`,
      `shape       ${config.numLayers} layers, hidden ${config.hiddenSize}, vocabulary ${config.vocabSize}, context ${config.maxPositions}`,
      `parameters  ${parameters.toLocaleString("en-US")}${isAdapter ? `, and ${size(stored).toLocaleString("en-US")} of the LoRA adapter` : ""}`,
      `dtype       ${dtypes} on disk, float32 here`,
      `weights     sha256 ${engine.version.sha256}`,
    ].join("\n"),
  );

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
      maxNewTokens: Math.max(1, Math.min(options.maxNewTokens, config.maxPositions - promptIds.length)),
      stopIds: tokenizer.stopIds,
    },
  }));
  const answers = (await generateAll(engine, requests)).map(({ completions }) => completions[0]!);
  await engine.dispose();

  const sequences = answers.map(({ ids }, i) => ({ promptIds: prompts[i]!, completion: ids }));
  const learner = await fromLearner(model, sequences, { ...options, temperature: 1 });
  const gap = gapOf(
    answers.flatMap(({ logprobs }, i) => Array.from(logprobs, (theirs, t) => Math.abs(theirs - learner[i]![t]!))),
  );
  checkGap(gap, runConfigSchema.parse({}).selftest);
  const tokens = answers.reduce((sum, { ids }) => sum + ids.length, 0);
  console.log(
    `self-test   actor and learner agree: largest difference ${gap!.max.toExponential(1)} nats, mean ${gap!.mean.toExponential(1)}, over ${tokens} sampled tokens`,
  );
  for (const [i, { question, answer }] of problems.entries()) {
    const { ids, finishReason } = answers[i]!;
    const text = tokenizer.decode(finishReason === "stop" ? ids.subarray(0, -1) : ids);
    console.log(
      `\n${i + 1}. ${question}\n${text.replace(/^/gm, "   ")}\n   [${outcomeOf(text, finishReason, answer)}; ${ids.length} tokens]`,
    );
  }
}

function size(tensors: readonly { readonly size: number }[]): number {
  return tensors.reduce((sum, tensor) => sum + tensor.size, 0);
}
