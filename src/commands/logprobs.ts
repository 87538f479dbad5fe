/**
 * `logprobs`: the same numbers from either side, so that anybody can check that actor and learner
 * agree.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { UserError, messageOf } from "../errors.js";
import type { ModelConfig } from "../model/config.js";
import { weightLayout } from "../model/layout.js";
import { loraLayout } from "../model/lora.js";
import { readModel, type ModelFiles } from "../model/read-model.js";
import { loadPacked } from "../model/model-weights.js";

export interface LogprobsOptions {
  readonly model: string;
  /** JSONL file, each line {"prompt_ids": [...], "completion_ids": [...]}. */
  readonly input: string;
  readonly engine: "actor" | "learner";
  readonly temperature: number;
  readonly backend: "auto" | "tensorflow" | "wasm" | "cpu";
  /** 0 = all cores. */
  readonly threads: number;
}

const lineSchema = z.object({
  prompt_ids: z.array(z.int().nonnegative()).nonempty(),
  completion_ids: z.array(z.int().nonnegative()).nonempty(),
});

interface Sequence {
  readonly promptIds: Int32Array;
  readonly completion: Int32Array;
}

export async function runLogprobs(options: LogprobsOptions): Promise<void> {
  const model = readModel(options.model);
  const sequences = readSequences(options.input, model.config);
  const from = options.engine === "actor" ? fromActor : fromLearner;
  const logprobs = await from(model, sequences, options);
  for (const values of logprobs) console.log(JSON.stringify({ logprobs: [...values] }));
}

function readSequences(file: string, config: ModelConfig): Sequence[] {
  let lines: string[];
  try {
    lines = readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => line.trim() !== "");
  } catch (error) {
    throw new UserError(`--input ${file}: expected a JSONL file, found none that can be read (${messageOf(error)}).`);
  }
  if (lines.length === 0)
    throw new UserError(`--input ${file}: expected lines {"prompt_ids": […], "completion_ids": […]}, found none.`);
  return lines.map((line, i) => {
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch (error) {
      throw new UserError(`${file} line ${i + 1}: expected JSON (${messageOf(error)}).`);
    }
    const parsed = lineSchema.safeParse(json);
    if (!parsed.success)
      throw new UserError(
        `${file} line ${i + 1}: expected {"prompt_ids": […], "completion_ids": […]}: ${z.prettifyError(parsed.error)}`,
      );
    const { prompt_ids: prompt, completion_ids: completion } = parsed.data;
    const tooLarge = [...prompt, ...completion].find((id) => id >= config.vocabSize);
    if (tooLarge !== undefined)
      throw new UserError(`${file} line ${i + 1}: id ${tooLarge} does not fit the vocabulary of ${config.vocabSize}.`);
    if (prompt.length + completion.length > config.maxPositions)
      throw new UserError(
        `${file} line ${i + 1}: ${prompt.length + completion.length} tokens, the model's context is ${config.maxPositions}.`,
      );
    return { promptIds: Int32Array.from(prompt), completion: Int32Array.from(completion) };
  });
}

/** Teacher forcing through the decode loop: the very path that samples in training. */
async function fromActor(
  model: ModelFiles,
  sequences: readonly Sequence[],
  options: Pick<LogprobsOptions, "temperature" | "threads">,
): Promise<Float32Array[]> {
  const { generateAll, startEngine } = await import("../engine/local.js");
  const engine = await startEngine(model, options.threads);
  const requests = sequences.map(({ promptIds, completion }, i) => ({
    requestId: String(i),
    promptIds,
    groupSize: 1,
    seed: 0n,
    sampling: { temperature: options.temperature, maxNewTokens: completion.length, stopIds: [] },
    forced: [completion],
  }));
  const groups = await generateAll(engine, requests);
  await engine.dispose();
  return groups.map((group) => group.completions[0]!.logprobs);
}

/** The packed forward pass of training, an adapter beside its base as there. */
export async function fromLearner(
  model: ModelFiles,
  sequences: readonly Sequence[],
  options: Pick<LogprobsOptions, "temperature" | "backend" | "threads">,
): Promise<Float32Array[]> {
  const { config, baseFolder, lora } = model;
  const { startBackend } = await import("../learner/backend/backend.js");
  const { completionLogprobs, disposeBatch, hiddenStates, prepareMicrobatch, splitFlat } =
    await import("../learner/policy/policy.js");
  const { tf } = await startBackend(options.backend, options.threads);
  const base = splitFlat(tf, tf.tensor1d(loadPacked(baseFolder, config)), weightLayout(config));
  const weights =
    lora === null
      ? { tensors: base, lora }
      : {
          tensors: new Map([...base, ...splitFlat(tf, tf.tensor1d(model.published()), loraLayout(config, lora))]),
          lora: { scale: lora.lora_alpha / lora.r, dropout: null },
        };
  const out: Float32Array[] = [];
  for (const { promptIds, completion } of sequences) {
    const batch = prepareMicrobatch(tf, config, [{ promptIds, completions: [completion] }]);
    const both = tf.tidy(() =>
      completionLogprobs(tf, config, weights, hiddenStates(tf, config, weights, batch), batch, options.temperature),
    );
    out.push(((await both.data()) as Float32Array).filter((_, i) => i % 2 === 0));
    both.dispose();
    disposeBatch(tf, batch);
  }
  return out;
}
