/** Prepares supervised fine-tuning: data, model and settings. supervised.ts trains. */
import { existsSync } from "node:fs";
import { UserError } from "../errors.js";
import { type BackendChoice, startBackend } from "./backend/backend.js";
import { baseFromFolder, baseFromPacked } from "./policy/model.js";
import type { SequenceGroup } from "./policy/packing.js";
import { initialWeights, trainSft, type SftOptions, type SftProgress } from "./supervised.js";
import { readModelConfig } from "../model/config.js";
import { resolveModelFolder } from "../model/hub.js";
import { layoutSize, weightLayout } from "../model/layout.js";
import { loadTokenizer, templateTurnEnd } from "../model/tokenizer.js";
import { checkpointsFolder } from "../run/paths.js";
import { loadDataset } from "../tasks/dataset.js";
import { starterCorpus } from "../tasks/starter.js";

export interface SftFlags extends SftOptions {
  readonly data: string;
  readonly fromScratch: boolean;
  readonly backend: BackendChoice;
}

/** Examples of "starter": the mixed-quality corpus. */
const STARTER_EXAMPLES = 200_000;

export async function runSft(given: SftFlags, onStep: (progress: SftProgress) => void): Promise<void> {
  const options = { ...given, model: resolveModelFolder(given.model) };
  const config = readModelConfig(options.model);
  const tokenizer = loadTokenizer(options.model, config);
  if (!options.resume && existsSync(checkpointsFolder(options.out)))
    throw new UserError(
      `--out ${options.out}: already holds a training. Continue it with --resume, or choose another folder.`,
    );
  const { size, problem } = examples(options.data);
  const endOfTurn = templateTurnEnd(tokenizer) ?? tokenizer.stopIds[0]!;
  if (!tokenizer.stopIds.includes(endOfTurn))
    console.error(
      `note: the chat template ends answers with ${tokenizer.decode([endOfTurn])} (${endOfTurn}), which is no stop token: ` +
        `answers will not end there. Add ${endOfTurn} to eos_token_id in generation_config.json.`,
    );
  const example = (i: number): SequenceGroup => {
    const { question, answer } = problem(i);
    const promptIds = tokenizer.chatPrompt([{ role: "user", content: question }]);
    const completion = Int32Array.from([...tokenizer.encode(answer, { addSpecial: false }), endOfTurn]);
    if (promptIds.length + completion.length > config.maxPositions)
      throw new UserError(
        `${options.data}: example ${i + 1} has ${promptIds.length + completion.length} tokens, the model's context is ` +
          `${config.maxPositions}. Remove it, or choose a model with a longer context.`,
      );
    return { promptIds, completions: [completion] };
  };
  const base = options.fromScratch
    ? baseFromPacked(initialWeights(config, options.seed))
    : baseFromFolder(options.model, config);
  const backend = await startBackend(options.backend, 0);
  console.log(
    `${layoutSize(weightLayout(config)).toLocaleString("en")} parameters, ${size.toLocaleString("en")} examples, ${backend.library}`,
  );
  const settings = { ...options, saveSteps: options.saveSteps === 0 ? options.maxSteps : options.saveSteps };
  await trainSft(backend.tf, config, base, { size, example }, settings, onStep);
}

function examples(data: string): { size: number; problem: (i: number) => { question: string; answer: string } } {
  if (data === "starter") return { size: STARTER_EXAMPLES, problem: (i) => starterCorpus(i) };
  const dataset = loadDataset(data, "train");
  return { size: dataset.size, problem: (i) => dataset.problem(i) };
}
