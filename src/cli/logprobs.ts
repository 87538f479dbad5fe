/** `logprobs`: the same numbers from either side, so that anybody can compare actor and learner. */
import { existsSync } from "node:fs";
import { type Command, Option } from "commander";
import { UserError } from "../errors.js";
import type { BackendChoice } from "../learner/backend/backend.js";
import type { ScoredSequence } from "../learner/score.js";
import type { ModelConfig } from "../model/config.js";
import type { ModelFiles } from "../model/read-model.js";
import { MODEL, above, backendOption, modelOf, threadsOption } from "./options.js";

interface LogprobsOptions {
  readonly model: string;
  /** JSONL file, each line {"prompt_ids": [...], "completion_ids": [...]}. */
  readonly input: string;
  readonly engine: "actor" | "learner";
  readonly temperature: number;
  readonly backend: BackendChoice;
  readonly threads: number;
}

export function addLogprobs(program: Command): void {
  program
    .command("logprobs")
    .description("log-probabilities of given completions, by the actor's engine or the learner's")
    .requiredOption("--model <dir>", MODEL)
    .requiredOption("--input <file>", 'JSONL: {"prompt_ids": [...], "completion_ids": [...]}')
    .addOption(new Option("--engine <name>", "whose numbers").choices(["actor", "learner"]).makeOptionMandatory())
    .option("--temperature <t>", "divides the logits", above(0), 1)
    .addOption(backendOption())
    .addOption(threadsOption())
    .action(logprobs);
}

async function logprobs(options: LogprobsOptions): Promise<void> {
  const { readModel } = await import("../model/read-model.js");
  const files = readModel(await modelOf(options.model));
  const sequences = await readSequences(options.input, files.shape);
  const { scoreSequences } = await import("../learner/score.js");
  const score = options.engine === "actor" ? forcedThroughEngine : scoreSequences;
  for (const values of await score(files, sequences, options)) console.log(JSON.stringify({ logprobs: [...values] }));
}

async function readSequences(file: string, shape: ModelConfig): Promise<ScoredSequence[]> {
  const { z } = await import("zod");
  const { checkedJson, parseJson, readLines } = await import("../files.js");
  const ids = z.array(z.int().nonnegative()).nonempty();
  const schema = z.object({ prompt_ids: ids, completion_ids: ids });
  const form = 'Write lines {"prompt_ids": […], "completion_ids": […]}.';
  if (!existsSync(file)) throw new UserError(`--input ${file}: expected a JSONL file, found nothing. ${form}`);
  const lines = readLines(file);
  if (lines.length === 0) throw new UserError(`--input ${file}: expected lines, found none. ${form}`);
  return lines.map(({ where, text }) => {
    const parsed = checkedJson(parseJson(text, where, "JSON"), schema, where, form);
    const { prompt_ids: prompt, completion_ids: completion } = parsed;
    const tooLarge = [...prompt, ...completion].find((id) => id >= shape.vocabSize);
    if (tooLarge !== undefined)
      throw new UserError(`${where}: id ${tooLarge} does not fit the vocabulary of ${shape.vocabSize}.`);
    if (prompt.length + completion.length > shape.maxPositions)
      throw new UserError(
        `${where}: ${prompt.length + completion.length} tokens, the model's context is ${shape.maxPositions}.`,
      );
    return { promptIds: Int32Array.from(prompt), completion: Int32Array.from(completion) };
  });
}

/** Scores completions by the decode loop that samples in training: each token is forced. */
async function forcedThroughEngine(
  files: ModelFiles,
  sequences: readonly ScoredSequence[],
  { temperature, threads }: Pick<LogprobsOptions, "temperature" | "threads">,
): Promise<Float32Array[]> {
  const { generateAll, startEngine } = await import("../engine/local.js");
  const engine = await startEngine(files, threads);
  const requests = sequences.map(({ promptIds, completion }, i) => ({
    requestId: String(i),
    promptIds,
    groupSize: 1,
    seed: 0n,
    sampling: { temperature, maxNewTokens: completion.length, stopIds: [] },
    forced: [completion],
  }));
  const groups = await generateAll(engine, requests);
  await engine.dispose();
  return groups.map((group) => group.completions[0]!.logprobs);
}
