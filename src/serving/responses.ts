/** OpenAI's response bodies. Log-probabilities are nats of the distribution sampled from. */
import type { Tokenizer } from "../model/tokenizer.js";
import type { Choice, ChoiceDelta, TokenInfo } from "../generate/generation.js";

type Decode = Tokenizer["decode"];
export type LogprobsWanted = { readonly top: boolean };

/** Parallel lists for completions. With `top`, each token has the most probable one beside it. */
function completionLogprobs(decode: Decode, tokens: readonly TokenInfo[], top: boolean, offset: number) {
  const texts = tokens.map(({ id }) => decode([id]));
  let end = offset;
  const textOffset = texts.map(({ length }) => (end += length) - length);
  const best = tokens.map((token, t) => {
    if (token.logprob === null) return null;
    const both: Record<string, number> = { [texts[t]!]: token.logprob };
    // Two tokens may have one text (broken UTF-8): the greater number stays, the more probable.
    if (token.top !== null && token.top.id !== token.id) both[decode([token.top.id])] = token.top.logprob;
    return both;
  });
  return {
    tokens: texts,
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: top ? best : null,
    text_offset: textOffset,
  };
}

/** @param offset characters of the choice's text before this piece */
export function completionChoice(
  decode: Decode,
  choice: ChoiceDelta,
  index: number,
  wanted: LogprobsWanted | null,
  offset: number,
) {
  const { text, tokens, finishReason: finish_reason } = choice;
  const logprobs = wanted === null ? null : completionLogprobs(decode, tokens, wanted.top, offset);
  return { index, text, logprobs, finish_reason };
}

function chatLogprobs(decode: Decode, tokens: readonly TokenInfo[], logprobs: LogprobsWanted | null) {
  if (logprobs === null) return null;
  const entry = (id: number, logprob: number) => {
    const token = decode([id]);
    return { token, logprob, bytes: token.includes("\uFFFD") ? null : [...Buffer.from(token)] };
  };
  return {
    content: tokens.map(({ id, logprob, top }) => ({
      ...entry(id, logprob!),
      top_logprobs: logprobs.top && top !== null ? [entry(top.id, top.logprob)] : [],
    })),
    refusal: null,
  };
}

export function chatChoice(decode: Decode, choice: Choice, logprobs: LogprobsWanted | null) {
  return {
    index: choice.index,
    message: { role: "assistant", content: choice.text, refusal: null },
    logprobs: chatLogprobs(decode, choice.tokens, logprobs),
    finish_reason: choice.finishReason,
  };
}

export function chatDelta(decode: Decode, delta: ChoiceDelta, first: boolean, logprobs: LogprobsWanted | null) {
  return {
    index: delta.index,
    delta: { ...(first && { role: "assistant" }), content: delta.text },
    logprobs: chatLogprobs(decode, delta.tokens, logprobs),
    finish_reason: delta.finishReason,
  };
}
