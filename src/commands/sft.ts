/**
 * `sft`: supervised fine-tuning on worked answers. Reads data and model, shows progress;
 * learner/sft.ts trains.
 */
import { existsSync } from "node:fs";
import { SingleBar } from "cli-progress";
import { UserError } from "../errors.js";
import { startBackend } from "../learner/backend/backend.js";
import type { SequenceGroup } from "../learner/policy/packing.js";
import { initialWeights, trainSft, type SftProgress, type SftOptions as SftTraining } from "../learner/sft.js";
import { readModelConfig } from "../model/config.js";
import { resolveModelFolder } from "../model/hub.js";
import { loadPacked } from "../model/model-weights.js";
import { loadTokenizer } from "../model/tokenizer.js";
import { checkpointsFolder } from "../run/layout.js";
import { loadDataset } from "../tasks/dataset.js";
import { starterCorpus } from "../tasks/starter.js";

export interface SftOptions extends SftTraining {
  /** Hugging Face folder; with `fromScratch` only its config.json and tokenizer are read. */
  readonly model: string;
  /** "starter", or a JSONL file with question/answer. */
  readonly data: string;
  /** Folder that becomes the trained model; checkpoints go to its checkpoints/. */
  readonly out: string;
  readonly fromScratch: boolean;
  readonly resume: boolean;
  readonly backend: "auto" | "tensorflow" | "wasm" | "cpu";
}

/** Examples of "starter": the mixed-quality corpus. */
const STARTER_EXAMPLES = 200_000;

export async function runSft(given: SftOptions): Promise<void> {
  const options = { ...given, model: resolveModelFolder(given.model) };
  const config = readModelConfig(options.model);
  const tokenizer = loadTokenizer(options.model, config);
  if (!options.resume && existsSync(checkpointsFolder(options.out)))
    throw new UserError(
      `--out ${options.out}: already holds a training. Continue it with --resume, or choose another folder.`,
    );
  const { size, problem } = examples(options.data);
  // The chat's own end of turn: what the template writes after an assistant's message.
  const endOfTurn = tokenizer.stopIds.find((id) => tokenizer.decode([id]) === "<|im_end|>") ?? tokenizer.stopIds[0]!;
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
  const packed = options.fromScratch ? initialWeights(config, options.seed) : loadPacked(options.model, config);
  const backend = await startBackend(options.backend, 0);
  console.log(
    `${packed.length.toLocaleString("en")} parameters, ${size.toLocaleString("en")} examples, ${backend.library}`,
  );
  const settings = {
    ...options,
    saveSteps: options.saveSteps === 0 ? options.maxSteps : options.saveSteps,
  };
  const show = progress(options.maxSteps);
  await trainSft(
    backend.tf,
    config,
    packed,
    options.model,
    options.out,
    size,
    example,
    settings,
    options.resume,
    show.step,
  );
  show.stop();
  console.log(`${options.out}: trained model (config.json, model.safetensors, tokenizer)`);
}

/** Worked examples by index. */
function examples(data: string): { size: number; problem: (i: number) => { question: string; answer: string } } {
  if (data === "starter") return { size: STARTER_EXAMPLES, problem: (i) => starterCorpus(i) };
  const dataset = loadDataset(data, "train");
  return { size: dataset.size, problem: (i) => dataset.problem(i) };
}

/** A bar on a terminal, a line every few seconds elsewhere. */
function progress(total: number): { step: (progress: SftProgress) => void; stop: () => void } {
  let smoothed = 0;
  const average = (loss: number): number => (smoothed = smoothed === 0 ? loss : 0.98 * smoothed + 0.02 * loss);
  if (!process.stdout.isTTY) {
    let lastMs = 0;
    return {
      step: ({ step, loss, gradNorm, learningRate }) => {
        const mean = average(loss);
        if (step !== total && performance.now() - lastMs < 5000) return;
        lastMs = performance.now();
        console.log(
          `step ${step}/${total}  loss ${mean.toFixed(4)}  grad norm ${gradNorm.toFixed(2)}  lr ${learningRate.toExponential(2)}`,
        );
      },
      stop: () => {},
    };
  }
  const bar = new SingleBar({ format: "{bar} {value}/{total}  loss {loss}  ETA {eta_formatted}", hideCursor: true });
  bar.start(total, 0, { loss: "…" });
  return {
    step: ({ step, loss }) => bar.update(step, { loss: average(loss).toFixed(4) }),
    stop: () => bar.stop(),
  };
}
