/** Turns a prompt of `infer` into a request of the engine, and the answer into text. */
import type { GenerateRequest, GeneratedGroup } from "../engine/engine-types.js";
import type { ModelFiles } from "../model/read-model.js";
import { UserError } from "../errors.js";
import { completionText, type ChatMessage } from "../model/tokenizer.js";
import { promptSeed } from "../protocol/seeds.js";

export interface Asking {
  /** Before a prompt that has no system message of its own; null = what the chat template says. */
  readonly system: string | null;
  /** Texts are taken as they are, without the chat template. */
  readonly raw: boolean;
  readonly samples: number;
  /** 0 = greedy */
  readonly temperature: number;
  readonly maxNewTokens: number;
  readonly seed: number;
}

export interface Answer {
  /** Without the stop token. */
  readonly text: string;
  readonly finish_reason: "stop" | "length";
  /** Generated, the stop token included. */
  readonly tokens: number;
  /** Sum over the tokens, nats, of the distribution sampled from (greedy: at temperature 1). */
  readonly logprob: number;
}

/** @param index for noise of its own @throws UserError for an empty, long or refused prompt */
export function makeRequest(
  { tokenizer, shape }: Pick<ModelFiles, "tokenizer" | "shape">,
  prompt: string | readonly ChatMessage[],
  asking: Asking,
  where: string,
  index: number,
): GenerateRequest {
  const { raw, samples, temperature, maxNewTokens, seed } = asking;
  if (raw && typeof prompt !== "string")
    throw new UserError(`${where}: messages need the chat template. Leave --raw out, or give a prompt.`);
  const promptIds =
    typeof prompt === "string" && raw ? tokenizer.encode(prompt) : tokenizer.chatPrompt(chatOf(prompt, asking));
  const room = shape.maxPositions - promptIds.length;
  if (promptIds.length === 0 || room < 1)
    throw new UserError(
      `${where}: expected 1 to ${shape.maxPositions - 1} tokens (the model's context is ${shape.maxPositions}), found ${promptIds.length}. ${room < 1 ? "Shorten it." : "Write something."}`,
    );
  return {
    requestId: `infer-${index}`,
    promptIds,
    groupSize: samples,
    seed: promptSeed(seed, index),
    sampling: { temperature, maxNewTokens: Math.min(maxNewTokens, room), stopIds: tokenizer.stopIds },
  };
}

function chatOf(prompt: string | readonly ChatMessage[], { system }: Asking): ChatMessage[] {
  const messages: ChatMessage[] = typeof prompt === "string" ? [{ role: "user", content: prompt }] : [...prompt];
  if (system !== null && messages[0]?.role !== "system") messages.unshift({ role: "system", content: system });
  return messages;
}

export function answersOf({ completions }: GeneratedGroup, { tokenizer }: Pick<ModelFiles, "tokenizer">): Answer[] {
  return completions.map(({ ids, logprobs, finishReason }) => ({
    text: completionText(tokenizer, { ids, finishReason }),
    finish_reason: finishReason,
    tokens: ids.length,
    logprob: logprobs.reduce((sum, logprob) => sum + logprob, 0),
  }));
}
