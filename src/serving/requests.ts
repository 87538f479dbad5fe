/**
 * OpenAI's request bodies, as far as served: fields without their effect here are refused by name.
 * Reference: "Create completion" (legacy), "Create chat completion"; vLLM's `stop_token_ids`.
 */
import { z } from "zod";
import { messageList } from "../model/chat-messages.js";

const MAX_CHOICES = 128;
const MAX_STOPS = 16;

/** Only `value` (no effect), or absent. */
const neutral = (value: number, ...others: number[]) =>
  z.literal([value, ...others], `only ${value} is served: sampling is by temperature alone`).nullish();
const tokenIds = z.array(z.int().nonnegative()).nonempty();

const logprobs = z.int().min(0).max(1, "at most 1: beside a token itself, only the most probable one is known");

const common = {
  model: z.string(),
  temperature: z.number().min(0).max(100).nullish(),
  n: z.int().min(1).max(MAX_CHOICES).nullish(),
  stop: z.union([z.string(), z.array(z.string()).max(MAX_STOPS)]).nullish(),
  stop_token_ids: z.array(z.int().nonnegative()).max(MAX_STOPS).nullish(),
  seed: z.int().nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.strictObject({ include_usage: z.boolean().nullish() }).nullish(),
  user: z.string().nullish(),
  top_p: neutral(1),
  top_k: neutral(0, -1),
  min_p: neutral(0),
  presence_penalty: neutral(0),
  frequency_penalty: neutral(0),
  repetition_penalty: neutral(1),
  logit_bias: z.strictObject({}, "is not served").nullish(),
};

export const completionRequest = z.strictObject({
  ...common,
  prompt: z.union(
    [z.string(), z.array(z.string()).nonempty(), tokenIds, z.array(tokenIds).nonempty()],
    "expected a string, a list of strings, token ids, or a list of lists of token ids, none of them empty",
  ),
  max_tokens: z.int().min(0).nullish(),
  /** 0: the tokens' own; 1: the most probable one beside it. */
  logprobs: logprobs.nullish(),
  echo: z.boolean().nullish(),
  best_of: z.int().nullish(),
  suffix: z.null("is not served").optional(),
});
export type CompletionRequest = z.infer<typeof completionRequest>;

export const chatRequest = z.strictObject({
  ...common,
  messages: messageList,
  max_tokens: z.int().min(1).nullish(),
  max_completion_tokens: z.int().min(1).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: logprobs.nullish(),
  response_format: z.strictObject({ type: z.literal("text", 'only "text" is served') }).nullish(),
  tools: z.tuple([], "is not served").nullish(),
  tool_choice: z.literal("none", "is not served").nullish(),
  functions: z.tuple([], "is not served").nullish(),
  function_call: z.literal("none", "is not served").nullish(),
  store: z.literal(false, "is not served").nullish(),
});
export type ChatRequest = z.infer<typeof chatRequest>;

/** What an HTTP client did wrong: becomes OpenAI's error body. */
export class RequestError extends Error {
  override name = "RequestError";
  readonly status: 400 | 401 | 403 | 404 | 413 | 415 | 429 | 503;
  readonly param: string | null;

  constructor(status: RequestError["status"], message: string, param: string | null = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

/** @throws RequestError naming the field */
export function parseBody<T>(schema: z.ZodType<T>, json: unknown): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const path = issue.path.join(".");
  if (issue.code === "unrecognized_keys")
    throw new RequestError(400, `${issue.keys.join(", ")}: not served. Leave it out.`, issue.keys[0]!);
  throw new RequestError(400, path === "" ? issue.message : `${path}: ${issue.message}`, path === "" ? null : path);
}
