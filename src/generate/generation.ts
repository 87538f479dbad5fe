/** One prompt and its completions as text; stop strings are found here, at segment boundaries. */
import type { GenerateRequest, GeneratedCompletion } from "../engine/engine-types.js";
import type { EnginePool } from "../engine/pool.js";
import { TextStream } from "./text-stream.js";
import type { Tokenizer } from "../model/tokenizer.js";

export interface Generation {
  readonly requestId: string;
  readonly promptIds: Int32Array;
  readonly n: number;
  readonly temperature: number;
  /** 0 only where the prompt is scored and nothing generated. */
  readonly maxTokens: number;
  readonly stopIds: readonly number[];
  readonly stops?: readonly string[];
  readonly seed: bigint;
  readonly top?: boolean;
  readonly scorePrompt?: boolean;
}

export interface TokenInfo {
  readonly id: number;
  /** Nats; null for a prompt's first token. */
  readonly logprob: number | null;
  readonly top: { readonly id: number; readonly logprob: number } | null;
}

export interface ChoiceDelta {
  readonly index: number;
  readonly text: string;
  readonly tokens: readonly TokenInfo[];
  /** Null while the choice goes on. */
  readonly finishReason: "stop" | "length" | null;
}

export interface Choice extends ChoiceDelta {
  readonly finishReason: "stop" | "length";
}

/** What the engine will be asked: completions, and the prompt's score. */
export function engineRequests(generation: Generation): GenerateRequest[] {
  const { requestId, promptIds, n, temperature, maxTokens, stopIds, seed, top = false, scorePrompt } = generation;
  const sampling = { temperature, maxNewTokens: maxTokens, stopIds };
  const completions = { requestId, promptIds, groupSize: n, seed, sampling, top, stream: true };
  const score = {
    requestId: `${requestId}-score`,
    promptIds: promptIds.subarray(0, 1),
    groupSize: 1,
    seed,
    sampling: { temperature, maxNewTokens: 1, stopIds: [] },
    forced: [promptIds.slice(1)],
    top,
  };
  return [...(maxTokens > 0 ? [completions] : []), ...(scorePrompt ? [score] : [])];
}

/** @returns choices in order, and prompt tokens with `scorePrompt` @throws Cancelled on abort */
export async function generate(
  pool: EnginePool,
  tokenizer: Pick<Tokenizer, "decode">,
  generation: Generation,
  signal: AbortSignal = new AbortController().signal,
  onDelta: (delta: ChoiceDelta) => void = () => {},
): Promise<{ choices: Choice[]; prompt: TokenInfo[] }> {
  const choices = Array.from(
    { length: generation.n },
    (_, index) => new GrowingChoice(generation, tokenizer, index, onDelta),
  );
  const requests = engineRequests(generation);
  const cancel = (): void => requests.forEach(({ requestId }) => pool.cancel(requestId));
  signal.addEventListener("abort", cancel);
  try {
    const running = requests.map((request) =>
      pool.generate(request, (tokens) => {
        const choice = choices[tokens.completion]!;
        choice.push(tokens);
        if (choice.foundStopString) pool.endCompletion(request.requestId, tokens.completion);
      }),
    );
    if (signal.aborted) cancel();
    const groups = await Promise.all(running);
    if (generation.maxTokens > 0) groups[0]!.completions.forEach((completion, c) => choices[c]!.finish(completion));
    const first: TokenInfo = { id: generation.promptIds[0]!, logprob: null, top: null };
    const prompt = generation.scorePrompt ? [first, ...tokenInfos(groups.at(-1)!.completions[0]!)] : [];
    return { choices: choices.map((choice) => choice.whole()), prompt };
  } finally {
    signal.removeEventListener("abort", cancel);
    cancel(); // when one of two failed
  }
}

type Tokens = Pick<GeneratedCompletion, "ids" | "logprobs" | "top">;

function tokenInfos({ ids, logprobs, top }: Tokens): TokenInfo[] {
  return Array.from(ids, (id, t) => ({
    id,
    logprob: logprobs[t]!,
    top: top === undefined ? null : { id: top.ids[t]!, logprob: top.logprobs[t]! },
  }));
}

class GrowingChoice {
  readonly #generation: Generation;
  readonly #index: number;
  readonly #onDelta: (delta: ChoiceDelta) => void;
  readonly #text: TextStream;
  readonly #tokens: TokenInfo[] = [];
  #received = 0;
  #finishReason: "stop" | "length" | null = null;

  constructor(
    generation: Generation,
    tokenizer: Pick<Tokenizer, "decode">,
    index: number,
    onDelta: (delta: ChoiceDelta) => void,
  ) {
    this.#generation = generation;
    this.#index = index;
    this.#onDelta = onDelta;
    this.#text = new TextStream(tokenizer, generation.stops);
  }

  get foundStopString(): boolean {
    return this.#text.stoppedAt !== undefined;
  }

  /** Takes the tokens of one more segment; those after the end are ignored. */
  push(tokens: Tokens): void {
    this.#received += tokens.ids.length;
    if (this.#finishReason !== null) return;
    const before = this.#tokens.length;
    for (const token of tokenInfos(tokens)) {
      this.#tokens.push(token);
      if (this.#generation.stopIds.includes(token.id)) this.#finishReason = "stop";
      else this.#text.push([token.id]);
      if (this.foundStopString) this.#finishReason = "stop";
      if (this.#finishReason === null && this.#tokens.length === this.#generation.maxTokens)
        this.#finishReason = "length";
      if (this.#finishReason !== null) break;
    }
    if (this.#finishReason !== null) this.#text.end();
    const text = this.#text.take(this.#finishReason !== null);
    this.#onDelta({ index: this.#index, text, tokens: this.#tokens.slice(before), finishReason: this.#finishReason });
  }

  /** The whole completion, of which `push` has seen a beginning. */
  finish({ ids, logprobs, top }: GeneratedCompletion): void {
    const from = this.#received;
    if (from >= ids.length) return;
    this.push({
      ids: ids.subarray(from),
      logprobs: logprobs.subarray(from),
      ...(top !== undefined && { top: { ids: top.ids.subarray(from), logprobs: top.logprobs.subarray(from) } }),
    });
  }

  whole(): Choice {
    const { text } = this.#text;
    return { index: this.#index, text, tokens: this.#tokens, finishReason: this.#finishReason ?? "length" };
  }
}
