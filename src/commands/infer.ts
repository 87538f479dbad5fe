/** `infer`: answers one prompt with the actor's engine. */
import { generateAll, openModel } from "../actors/local.js";
import { UserError } from "../errors.js";
import { notAppliedNote, readGenerationConfig } from "../model/generation-config.js";
import { resolveModelFolder } from "../model/hub.js";
import type { ChatMessage } from "../model/tokenizer.js";
import { taskSeed } from "../protocol/seeds.js";

export interface InferOptions {
  readonly model: string;
  readonly prompt: string;
  /** System message; undefined = the template's own default. */
  readonly system?: string;
  /** The prompt is taken as it is, without the chat template. */
  readonly raw: boolean;
  readonly greedy: boolean;
  /** Undefined = what the model's generation_config.json says. */
  readonly temperature?: number;
  readonly maxNewTokens: number;
  readonly seed: number;
  readonly json: boolean;
  /** 0 = all cores. */
  readonly threads: number;
}

export async function runInfer(given: InferOptions): Promise<void> {
  const options = { ...given, model: resolveModelFolder(given.model) };
  const { config, tokenizer, engine } = await openModel(options.model, options.threads);
  const messages: ChatMessage[] = [{ role: "user", content: options.prompt }];
  if (options.system !== undefined) messages.unshift({ role: "system", content: options.system });
  const promptIds = options.raw ? tokenizer.encode(options.prompt) : tokenizer.chatPrompt(messages);
  const room = config.maxPositions - promptIds.length;
  if (promptIds.length === 0 || room < 1)
    throw new UserError(
      `--prompt: expected 1 to ${config.maxPositions - 1} tokens (the model's context is ${config.maxPositions}), found ${promptIds.length}. ${room < 1 ? "Shorten it." : "Write something."}`,
    );
  const generation = readGenerationConfig(options.model);
  const temperature = options.greedy ? 0 : (options.temperature ?? generation.temperature);
  const note = temperature === 0 ? undefined : notAppliedNote(generation);
  if (note !== undefined) process.stderr.write(`${note}\n`);
  const request = {
    requestId: "infer",
    promptIds,
    groupSize: 1,
    seed: taskSeed(options.seed, "infer"),
    sampling: { temperature, maxNewTokens: Math.min(options.maxNewTokens, room), stopIds: tokenizer.stopIds },
  };
  const [group] = await generateAll(engine, [request]);
  const { ids, finishReason } = group!.completions[0]!;
  await engine.dispose();
  const text = tokenizer.decode(finishReason === "stop" ? ids.subarray(0, -1) : ids);
  if (options.json)
    console.log(
      JSON.stringify({ prompt_ids: [...promptIds], completion_ids: [...ids], text, finish_reason: finishReason }),
    );
  else console.log(text);
}
