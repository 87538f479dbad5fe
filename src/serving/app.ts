/**
 * The HTTP surface of `serve`: OpenAI's completions and chat completions over a pool of engines.
 * Routes, admission, answers whole or as server-sent events, counts. Knows no sockets:
 * commands/serve.ts listens.
 */
import { randomUUID } from "node:crypto";
import { Hono, type Context } from "hono";
import { bodyLimit } from "hono/body-limit";
import { HTTPException } from "hono/http-exception";
import { streamSSE } from "hono/streaming";
import type { EngineOptions } from "../engine/engine-types.js";
import { Cancelled, type EnginePool } from "../engine/pool.js";
import { messageOf } from "../errors.js";
import { errorBody, keyRequired, loopbackOnly, readBody } from "./access.js";
import { generate, type Choice, type ChoiceDelta, type TokenInfo } from "../generate/generation.js";
import { RequestError, chatRequest, completionRequest, parseBody } from "./requests.js";
import { chatChoice, chatDelta, completionChoice, usage } from "./responses.js";
import { chatWork, checkName, completionWork, type ServedModel, type Work } from "./work.js";

const MAX_BODY_BYTES = 8 << 20;

export interface AppOptions {
  readonly pool: EnginePool;
  /** What its engines were made with. */
  readonly limits: EngineOptions;
  readonly model: ServedModel;
  /** Completions that may wait for a place in the batch; beyond, 429. */
  readonly maxQueue: number;
  /** Null only on loopback. */
  readonly apiKey: string | null;
  readonly log: (line: string) => void;
}

export interface ServeApp {
  readonly fetch: Hono["fetch"];
  readonly request: Hono["request"];
  /** From now on 503: what runs is still answered. Returns how many requests that are. */
  drain(): number;
}

type Result = Awaited<ReturnType<typeof generate>>;

export function createApp({ pool, limits, model, maxQueue, apiKey, log }: AppOptions): ServeApp {
  const { tokenizer } = model;
  const decode: typeof tokenizer.decode = (ids, options) => tokenizer.decode(ids, options);
  const started = seconds();
  const counts = { answered: 0, cancelled: 0, refused: 0, failed: 0, prompt_tokens: 0, completion_tokens: 0 };
  let open = 0;
  let draining = false;
  const app = new Hono();

  if (apiKey === null) app.use(loopbackOnly);
  else app.use("/v1/*", keyRequired(apiKey));
  const tooLarge = (): never => {
    throw new RequestError(413, `the body exceeds ${MAX_BODY_BYTES} bytes`);
  };
  app.use(bodyLimit({ maxSize: MAX_BODY_BYTES, onError: tooLarge }));

  app.get("/health", (c) =>
    c.json({
      status: draining ? "stopping" : "ok",
      model: model.name,
      completions: { running_or_queued: pool.rows, max_running: pool.capacity, max_queued: maxQueue },
      requests: { open, ...counts },
    }),
  );
  const card = { id: model.name, object: "model", created: started, owned_by: "finellama-rl" };
  app.get("/v1/models", (c) => c.json({ object: "list", data: [card] }));
  app.get("/v1/models/:id{.+}", (c) => {
    checkName(model, c.req.param("id"));
    return c.json(card);
  });

  app.post("/v1/completions", async (c) => {
    const body = parseBody(completionRequest, await readBody(c));
    const work = admit(completionWork(model, limits, body));
    const head = { id: `cmpl-${randomUUID()}`, object: "text_completion", created: seconds(), model: model.name };
    const n = body.n ?? 1;
    const echoed = (p: number): string => (body.echo === true ? decode(work.generations[p]!.promptIds) : "");
    /** With echo, the prompt's text and tokens come first. */
    const whole = (choice: Choice, prompt: readonly TokenInfo[], p: number) => {
      const all = { ...choice, text: echoed(p) + choice.text, tokens: [...prompt, ...choice.tokens] };
      return completionChoice(decode, all, p * n + choice.index, work.logprobs, 0);
    };
    if (!work.stream)
      return answer(c, work, (results) => ({
        ...head,
        choices: results.flatMap(({ choices, prompt }, p) => choices.map((choice) => whole(choice, prompt, p))),
      }));
    /** Characters sent, by choice. */
    const sent = new Map<number, number>();
    return answerInPieces(c, work, head, (delta, p) => {
      const index = p * n + delta.index;
      const offset = sent.get(index);
      const text = (offset === undefined ? echoed(p) : "") + delta.text;
      sent.set(index, (offset ?? 0) + text.length);
      return completionChoice(decode, { ...delta, text }, index, work.logprobs, offset ?? 0);
    });
  });

  app.post("/v1/chat/completions", async (c) => {
    const body = parseBody(chatRequest, await readBody(c));
    const work = admit(chatWork(model, limits, body));
    const head = { id: `chatcmpl-${randomUUID()}`, created: seconds(), model: model.name };
    if (!work.stream)
      return answer(c, work, ([result]) => ({
        ...head,
        object: "chat.completion",
        choices: result!.choices.map((choice) => chatChoice(decode, choice, work.logprobs)),
      }));
    const begun = new Set<number>();
    return answerInPieces(c, work, { ...head, object: "chat.completion.chunk" }, (delta) => {
      const first = !begun.has(delta.index);
      begun.add(delta.index);
      return chatDelta(decode, delta, first, work.logprobs);
    });
  });

  app.notFound((c) => c.json(errorBody(404, `there is no ${c.req.method} ${c.req.path}`), 404));
  app.onError((error, c) => {
    if (error instanceof Cancelled) {
      counts.cancelled++;
      return c.body(null, 408); // nobody reads it: the client is gone
    }
    if (error instanceof RequestError) {
      counts.refused++;
      if (error.status === 429) c.header("Retry-After", "1");
      return c.json(errorBody(error.status, error.message, error.param), error.status);
    }
    if (error instanceof HTTPException) {
      counts.refused++;
      return error.getResponse(); // no or another key
    }
    return c.json(failure(error), 500);
  });

  /** Counts and logs a defect, or the end of the engine. */
  function failure(error: unknown) {
    counts.failed++;
    log(error instanceof Error ? (error.stack ?? error.message) : messageOf(error));
    return errorBody(500, "the server failed; its log says why");
  }

  function admit(work: Work): Work {
    if (draining) throw new RequestError(503, "the server is stopping");
    const capacity = pool.capacity + maxQueue;
    if (work.rows > capacity)
      throw new RequestError(400, `${work.rows} completions in one request: the server takes ${capacity} at once`);
    if (pool.rows + work.rows > capacity)
      throw new RequestError(429, `${pool.rows} completions are running or waiting: try again later`);
    return work;
  }

  async function run(work: Work, gone: AbortSignal, onDelta = (_delta: ChoiceDelta, _p: number): void => {}) {
    open++;
    const abort = new AbortController();
    const signal = AbortSignal.any([gone, abort.signal]);
    try {
      return await Promise.all(
        work.generations.map((generation, p) =>
          generate(pool, tokenizer, generation, signal, (delta) => onDelta(delta, p)),
        ),
      );
    } catch (error) {
      abort.abort(); // the other prompts
      throw error;
    } finally {
      open--;
    }
  }

  /** Counts an answer. */
  function used(work: Work, results: readonly Result[]) {
    const promptTokens = work.generations.reduce((sum, { promptIds }) => sum + promptIds.length, 0);
    const completionTokens = results
      .flatMap(({ choices }) => choices)
      .reduce((sum, { tokens }) => sum + tokens.length, 0);
    counts.answered++;
    counts.prompt_tokens += promptTokens;
    counts.completion_tokens += completionTokens;
    return usage(promptTokens, completionTokens);
  }

  async function answer(c: Context, work: Work, body: (results: Result[]) => object): Promise<Response> {
    const results = await run(work, c.req.raw.signal);
    return c.json({ ...body(results), usage: used(work, results) });
  }

  function answerInPieces(
    c: Context,
    work: Work,
    head: object,
    piece: (delta: ChoiceDelta, p: number) => object,
  ): Response {
    return streamSSE(c, async (stream) => {
      const gone = new AbortController();
      stream.onAbort(() => gone.abort());
      const send = (data: object): Promise<void> => stream.writeSSE({ data: JSON.stringify(data) });
      const usageField = work.includeUsage ? { usage: null } : {};
      try {
        const results = await run(work, gone.signal, (delta, p) => {
          // writes keep their order; to a reader that has gone they are none
          void send({ ...head, choices: [piece(delta, p)], ...usageField });
        });
        const total = used(work, results);
        if (work.includeUsage) await send({ ...head, choices: [], usage: total });
        await stream.writeSSE({ data: "[DONE]" });
      } catch (error) {
        if (error instanceof Cancelled) counts.cancelled++;
        else await send(failure(error));
      }
    });
  }

  return {
    fetch: app.fetch,
    request: app.request,
    drain() {
      draining = true;
      return open;
    },
  };
}

/** Since 1970. */
function seconds(): number {
  return Math.floor(Date.now() / 1000);
}
