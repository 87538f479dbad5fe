/** Prepares supervised fine-tuning: data, model and settings. supervised.ts trains. */
import { existsSync } from "node:fs";
import { z } from "zod";
import { UserError } from "../errors.js";
import { checkedJson } from "../files.js";
import { type BackendChoice, startBackend } from "./backend/backend.js";
import { baseFromFolder, baseFromPacked } from "./policy/model.js";
import type { SequenceGroup } from "./policy/packing.js";
import { initialWeights, sftRun, trainSft, type SftOptions, type SftProgress } from "./supervised.js";
import { readModelConfig } from "../model/config.js";
import { resolveModelFolder } from "../model/hub.js";
import { publishedLayout } from "../model/identity.js";
import { layoutSize } from "../model/layout.js";
import { loadTokenizer, templateTurnEnd, turnEndNote } from "../model/tokenizer.js";
import { resumable } from "../run/checkpoint.js";
import { compareInputs, dataInput, modelInputs, savedInputs } from "../run/inputs.js";
import { checkpointsFolder } from "../run/paths.js";
import { loadDataset } from "../tasks/dataset.js";
import { starterCorpus } from "../tasks/starter.js";

export interface SftFlags extends SftOptions {
  readonly data: string;
  readonly fromScratch: boolean;
  readonly acceptChangedInputs?: true;
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
  if (options.lora && options.fromScratch)
    throw new UserError("--lora: expected a trained model under the adapter, found --from-scratch. Leave one out.");
  if (options.acceptChangedInputs && !options.resume)
    throw new UserError("--accept-changed-inputs: expected --resume beside it. Add it.");
  const inputs = [
    ...modelInputs(options.model, options.fromScratch ? null : undefined),
    dataInput("--data", options.data, "train"),
  ];
  const start = options.resume ? resumed(options, inputs) : null;
  const { size, problem } = examples(options.data);
  const endOfTurn = templateTurnEnd(tokenizer) ?? tokenizer.stopIds[0]!;
  const note = turnEndNote(tokenizer);
  if (note !== undefined) console.error(note);
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
  // all of a file's are looked at now: a long one must not end a training that is half done
  const read = options.data === "starter" ? [] : Array.from({ length: size }, (_, i) => example(i));
  const base = options.fromScratch
    ? baseFromPacked(initialWeights(config, options.seed))
    : baseFromFolder(options.model, config);
  const backend = await startBackend(options.backend, 0);
  const trained = layoutSize(publishedLayout(config, options.lora ? sftRun(options).lora : null));
  console.log(`${trained.toLocaleString("en")} parameters, ${size.toLocaleString("en")} examples, ${backend.library}`);
  const settings = { ...options, saveSteps: options.saveSteps === 0 ? options.maxSteps : options.saveSteps };
  const saved = { options: settings, inputs: Object.fromEntries(inputs.map(({ name, sha256 }) => [name, sha256])) };
  const all = { size, example: (i: number) => read[i] ?? example(i) };
  await trainSft(backend.tf, config, base, all, settings, start, saved, onStep);
}

const savedSft = z.looseObject({ options: z.record(z.string(), z.unknown()), inputs: savedInputs });
/** Settings that cannot change when a training is resumed. */
const FIXED = "batchSize learningRate warmupSteps weightDecay maxGradNorm seed fromScratch lora".split(
  " ",
) as (keyof SftFlags)[];
const FIXED_WITH_LORA = ["loraR", "loraAlpha"] as const;

const said = (value: unknown): string => (value === undefined ? "none" : JSON.stringify(value));

/** Reads the newest checkpoint. @throws UserError when it is of another training, or ahead */
function resumed(options: SftFlags, inputs: ReturnType<typeof dataInput>[]): ReturnType<typeof resumable> {
  const newest = resumable(options.out, console.error);
  if (newest === null) return null;
  const saved = checkedJson(newest.state.values, savedSft, "training_state.json");
  for (const key of [...FIXED, ...(options.lora ? FIXED_WITH_LORA : [])]) {
    const flag = `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    if (saved.options[key] !== options[key])
      throw new UserError(
        `${flag}: expected ${said(saved.options[key])}, with which this training was started, found ${said(options[key])}. Give the same again, or start anew with another --out.`,
      );
  }
  compareInputs(saved.inputs, inputs, options.acceptChangedInputs === true, console.error);
  if (options.maxSteps < newest.step)
    throw new UserError(
      `--max-steps ${options.maxSteps}: expected at least the ${newest.step} steps that ${options.out} has done. Raise it to go on.`,
    );
  if (options.maxSteps === newest.step)
    console.error(`note: all ${newest.step} steps were done before; raise --max-steps to go on.`);
  return newest;
}

function examples(data: string): { size: number; problem: (i: number) => { question: string; answer: string } } {
  if (data === "starter") return { size: STARTER_EXAMPLES, problem: (i) => starterCorpus(i) };
  const dataset = loadDataset(data, "train");
  return { size: dataset.size, problem: (i) => dataset.problem(i) };
}
