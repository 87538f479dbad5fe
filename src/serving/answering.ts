/** Admits requests to the engines, answers them whole or in pieces, and counts them. */
import type { Context } from "hono";
import { HTTPException } from "hono/http-exception";
import { streamSSE } from "hono/streaming";
import { Cancelled, type EnginePool } from "../engine/pool.js";
import { sum } from "../math/statistics.js";
import { messageOf } from "../errors.js";
import { type ChoiceDelta, generate } from "../generate/generation.js";
import type { Tokenizer } from "../model/tokenizer.js";
import { errorBody } from "./access.js";
import { RequestError } from "./requests.js";
import type { Work } from "./work.js";

type Result = Awaited<ReturnType<typeof generate>>;

export class Answering {
  readonly counts = { answered: 0, cancelled: 0, refused: 0, failed: 0, prompt_tokens: 0, completion_tokens: 0 };
  open = 0;
  /** New requests are refused; those that run are still answered. */
  draining = false;
  readonly #pool: EnginePool;
  readonly #tokenizer: Pick<Tokenizer, "decode">;
  readonly #maxQueue: number;
  readonly #log: (line: string) => void;

  constructor(pool: EnginePool, tokenizer: Pick<Tokenizer, "decode">, maxQueue: number, log: (line: string) => void) {
    this.#pool = pool;
    this.#tokenizer = tokenizer;
    this.#maxQueue = maxQueue;
    this.#log = log;
  }

  /** @throws RequestError where there is no room for the work */
  admit(work: Work): Work {
    if (this.draining) throw new RequestError(503, "the server is stopping");
    const capacity = this.#pool.capacity + this.#maxQueue;
    if (work.completions > capacity)
      throw new RequestError(
        400,
        `${work.completions} completions in one request: the server takes ${capacity} at once`,
      );
    if (this.#pool.rows + work.completions > capacity)
      throw new RequestError(429, `${this.#pool.rows} completions are running or waiting: try again later`);
    return work;
  }

  async whole(c: Context, work: Work, body: (results: Result[]) => object): Promise<Response> {
    const results = await this.#run(work, c.req.raw.signal);
    return c.json({ ...body(results), usage: this.#used(work, results) });
  }

  inPieces(c: Context, work: Work, head: object, piece: (delta: ChoiceDelta, p: number) => object): Response {
    return streamSSE(c, async (stream) => {
      const gone = new AbortController();
      stream.onAbort(() => gone.abort());
      const send = (data: object): Promise<void> => stream.writeSSE({ data: JSON.stringify(data) });
      const usageField = work.includeUsage ? { usage: null } : {};
      try {
        const results = await this.#run(work, gone.signal, (delta, p) => {
          // writes keep their order; what is written to a reader that has gone is dropped
          void send({ ...head, choices: [piece(delta, p)], ...usageField });
        });
        const total = this.#used(work, results);
        if (work.includeUsage) await send({ ...head, choices: [], usage: total });
        await stream.writeSSE({ data: "[DONE]" });
      } catch (error) {
        if (error instanceof Cancelled) this.counts.cancelled++;
        else await send(this.#failure(error));
      }
    });
  }

  refuse(error: unknown, c: Context): Response {
    if (error instanceof Cancelled) {
      this.counts.cancelled++;
      return c.body(null, 408); // nobody reads it: the client is gone
    }
    if (error instanceof RequestError) {
      this.counts.refused++;
      if (error.status === 429) c.header("Retry-After", "1");
      return c.json(errorBody(error.status, error.message, error.param), error.status);
    }
    if (error instanceof HTTPException) {
      this.counts.refused++;
      return error.getResponse(); // no or another key
    }
    return c.json(this.#failure(error), 500);
  }

  async #run(
    work: Work,
    gone: AbortSignal,
    onDelta: (delta: ChoiceDelta, p: number) => void = () => {},
  ): Promise<Result[]> {
    this.open++;
    const abort = new AbortController();
    const signal = AbortSignal.any([gone, abort.signal]);
    try {
      return await Promise.all(
        work.generations.map((generation, p) =>
          generate(this.#pool, this.#tokenizer, generation, signal, (delta) => onDelta(delta, p)),
        ),
      );
    } catch (error) {
      abort.abort(); // the other prompts
      throw error;
    } finally {
      this.open--;
    }
  }

  #used(work: Work, results: readonly Result[]) {
    const promptTokens = sum(work.generations.map(({ promptIds }) => promptIds.length));
    const completionTokens = sum(results.flatMap(({ choices }) => choices.map(({ tokens }) => tokens.length)));
    this.counts.answered++;
    this.counts.prompt_tokens += promptTokens;
    this.counts.completion_tokens += completionTokens;
    return {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
    };
  }

  #failure(error: unknown) {
    this.counts.failed++;
    this.#log(error instanceof Error ? (error.stack ?? error.message) : messageOf(error));
    return errorBody(500, "the server failed; its log says why");
  }
}
