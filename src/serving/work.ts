/** Turns checked request bodies into generations: token ids, defaults, limits. Knows no HTTP. */
import { randomBytes, randomUUID } from "node:crypto";
import { checkRequest } from "../engine/check-request.js";
import type { EngineOptions } from "../engine/engine-types.js";
import { UserError } from "../errors.js";
import type { ModelConfig } from "../model/config.js";
import type { Tokenizer } from "../model/tokenizer.js";
import { promptSeed } from "../protocol/seeds.js";
import { engineRequests, type Generation } from "../generate/generation.js";
import { RequestError, type ChatRequest, type CompletionRequest } from "./requests.js";
import type { LogprobsWanted } from "./responses.js";

/** OpenAI's default of the completions endpoint. */
const DEFAULT_MAX_TOKENS = 16;

export interface ServedModel {
  readonly name: string;
  readonly shape: ModelConfig;
  readonly tokenizer: Tokenizer;
  /** Where a request gives none; 0 = greedy. */
  readonly temperature: number;
}

/** What a request asks of the engine, and how its answer is written. */
export type Work = ReturnType<typeof checked>;

/** @throws RequestError */
export function checkName(model: ServedModel, name: string): void {
  if (name !== model.name) throw new RequestError(404, `model: expected "${model.name}", found "${name}"`, "model");
}

/** @throws RequestError for what the engine cannot serve */
export function completionWork(model: ServedModel, limits: EngineOptions, body: CompletionRequest): Work {
  checkName(model, body.model);
  const n = body.n ?? 1;
  if (body.best_of != null && body.best_of !== n)
    throw new RequestError(400, "best_of: only the value of n is served", "best_of");
  if (body.max_tokens === 0 && body.echo !== true)
    throw new RequestError(400, "max_tokens: 0 is served with echo only", "max_tokens");
  if (body.stream === true && body.echo === true && body.logprobs != null)
    throw new RequestError(400, "echo: with logprobs it is not streamed", "echo");
  const { prompt } = body;
  const one = typeof prompt === "string" || typeof prompt[0] === "number";
  const prompts = (one ? [prompt] : prompt) as (string | number[])[];
  const generations = prompts.map((prompt, p) => {
    const promptIds = typeof prompt === "string" ? model.tokenizer.encode(prompt) : Int32Array.from(prompt);
    const maxTokens = body.max_tokens ?? Math.min(DEFAULT_MAX_TOKENS, room(model, promptIds));
    const scorePrompt = body.echo === true && body.logprobs != null;
    return { ...commonParts(model, body, p), promptIds, maxTokens, scorePrompt, top: body.logprobs === 1 };
  });
  return checked(model, limits, body, generations, body.logprobs == null ? null : { top: body.logprobs === 1 });
}

/** @throws RequestError for what the engine cannot serve */
export function chatWork(model: ServedModel, limits: EngineOptions, body: ChatRequest): Work {
  checkName(model, body.model);
  if (body.top_logprobs != null && body.logprobs !== true)
    throw new RequestError(400, "top_logprobs: expects logprobs true", "top_logprobs");
  const promptIds = asRequestErrors(() => model.tokenizer.chatPrompt(body.messages));
  const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? room(model, promptIds);
  const top = body.top_logprobs === 1;
  const generation = { ...commonParts(model, body, 0), promptIds, maxTokens, top };
  return checked(model, limits, body, [generation], body.logprobs === true ? { top } : null);
}

/** Tokens that fit after the prompt; at least 1, so that a prompt that is too long is refused. */
const room = (model: ServedModel, promptIds: Int32Array): number =>
  Math.max(1, model.shape.maxPositions - promptIds.length);

function commonParts(model: ServedModel, body: CompletionRequest | ChatRequest, p: number) {
  return {
    requestId: randomUUID(),
    n: body.n ?? 1,
    temperature: body.temperature ?? model.temperature,
    stops: typeof body.stop === "string" ? [body.stop] : (body.stop ?? []),
    stopIds: [...new Set([...model.tokenizer.stopIds, ...(body.stop_token_ids ?? [])])],
    seed: body.seed == null ? randomBytes(8).readBigUInt64BE() : promptSeed(body.seed, p),
  };
}

function checked(
  model: ServedModel,
  limits: EngineOptions,
  body: CompletionRequest | ChatRequest,
  generations: readonly Generation[],
  logprobs: LogprobsWanted | null,
) {
  const requests = generations.flatMap(engineRequests);
  if (generations.some(({ promptIds }) => promptIds.length === 0))
    throw new RequestError(400, "prompt: expected at least one token", "prompt");
  if (body.n != null && body.n > limits.maxRows)
    throw new RequestError(
      400,
      `n: expected at most ${limits.maxRows} (--max-rows of the server), found ${body.n}`,
      "n",
    );
  for (const request of requests) asRequestErrors(() => checkRequest(request, model.shape, limits));
  return {
    /** One for each prompt. */
    generations,
    logprobs,
    stream: body.stream === true,
    includeUsage: body.stream_options?.include_usage === true,
    /** Completions that the engine will compute, the prompt's score included. */
    completions: requests.reduce((sum, { groupSize }) => sum + groupSize, 0),
  };
}

/** Turns a UserError into a RequestError: the client can mend what a user could. */
function asRequestErrors<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new RequestError(400, error.message.replace(/^request [^:]*: /, ""));
  }
}
