/** The HTTP surface of `serve`: the routes; answering.ts answers and server.ts listens. */
import { randomUUID } from "node:crypto";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { cors } from "hono/cors";
import type { EngineOptions } from "../engine/engine-types.js";
import type { EnginePool } from "../engine/pool.js";
import type { Choice, TokenInfo } from "../generate/generation.js";
import type { Tokenizer } from "../model/tokenizer.js";
import { errorBody, keyRequired, loopbackOnly, readBody } from "./access.js";
import { Answering } from "./answering.js";
import { RequestError, chatRequest, completionRequest, parseBody } from "./requests.js";
import { chatChoice, chatDelta, completionChoice } from "./responses.js";
import { type ServedModel, chatWork, checkName, completionWork } from "./work.js";

const MAX_BODY_BYTES = 8 << 20;
/** Bodies of open requests, in bytes; one of unknown length counts as the largest. */
const MAX_BODIES_BYTES = 1 << 30;
const ROUTES = "/v1/completions, /v1/chat/completions, /v1/models and /health";

export interface AppOptions {
  readonly pool: EnginePool;
  /** What its engines were made with. */
  readonly limits: EngineOptions;
  readonly model: ServedModel;
  /** Completions that may wait for a place in the batch; beyond, 429. */
  readonly maxQueue: number;
  /** Null only on loopback. */
  readonly apiKey: string | null;
  /** Whose pages may ask; nobody's by default. */
  readonly cors?: string | undefined;
  readonly log: (line: string) => void;
}

export function createApp(options: AppOptions) {
  const { pool, model, maxQueue, apiKey, log } = options;
  const answering = new Answering(pool, model.tokenizer, maxQueue, log);
  const started = seconds();
  const app = new Hono();

  // first of all: a preflight request has no key
  if (options.cors !== undefined) app.use(cors({ origin: options.cors }));
  if (apiKey === null) app.use(loopbackOnly);
  else app.use("/v1/*", keyRequired(apiKey));
  const tooLarge = (): never => {
    throw new RequestError(413, `the body exceeds ${MAX_BODY_BYTES} bytes`);
  };
  let bodies = 0;
  app.use(async (c, next) => {
    const length = c.req.header("Content-Length");
    const size = length !== undefined ? Number(length) : c.req.method === "GET" ? 0 : MAX_BODY_BYTES;
    if (size <= MAX_BODY_BYTES && bodies + size > MAX_BODIES_BYTES)
      throw new RequestError(503, "the bodies of open requests take all the room there is for them; try again later");
    bodies += size;
    await next().finally(() => (bodies -= size));
  });
  app.use(bodyLimit({ maxSize: MAX_BODY_BYTES, onError: tooLarge }));

  app.get("/health", (c) =>
    c.json({
      status: answering.draining ? "stopping" : "ok",
      model: model.name,
      completions: { running_or_queued: pool.rows, max_running: pool.capacity, max_queued: maxQueue },
      requests: { open: answering.open, ...answering.counts },
    }),
  );
  const card = { id: model.name, object: "model", created: started, owned_by: "finellama-rl" };
  app.get("/v1/models", (c) => c.json({ object: "list", data: [card] }));
  app.get("/v1/models/:id{.+}", (c) => {
    checkName(model, c.req.param("id"));
    return c.json(card);
  });
  addCompletions(app, answering, options);
  addChatCompletions(app, answering, options);
  app.notFound((c) => c.json(errorBody(404, `there is no ${c.req.method} ${c.req.path}; served are ${ROUTES}`), 404));
  app.onError((error, c) => answering.refuse(error, c));
  return {
    fetch: app.fetch,
    request: app.request,
    /** From now on 503: what runs is still answered. Returns how many requests that are. */
    drain(): number {
      answering.draining = true;
      return answering.open;
    },
  };
}

function addCompletions(app: Hono, answering: Answering, { limits, model }: AppOptions): void {
  const decode: Tokenizer["decode"] = (ids) => model.tokenizer.decode(ids);
  app.post("/v1/completions", async (c) => {
    const body = parseBody(completionRequest, await readBody(c));
    const work = answering.admit(completionWork(model, limits, body));
    const head = { id: `cmpl-${randomUUID()}`, object: "text_completion", created: seconds(), model: model.name };
    const n = body.n ?? 1;
    const echoed = (p: number): string => (body.echo === true ? decode(work.generations[p]!.promptIds) : "");
    /** With echo, the prompt's text and tokens come first. */
    const whole = (choice: Choice, prompt: readonly TokenInfo[], p: number) => {
      const all = { ...choice, text: echoed(p) + choice.text, tokens: [...prompt, ...choice.tokens] };
      return completionChoice(decode, all, p * n + choice.index, work.logprobs, 0);
    };
    if (!work.stream)
      return answering.whole(c, work, (results) => ({
        ...head,
        choices: results.flatMap(({ choices, prompt }, p) => choices.map((choice) => whole(choice, prompt, p))),
      }));
    /** Characters sent, by choice. */
    const sent = new Map<number, number>();
    return answering.inPieces(c, work, head, (delta, p) => {
      const index = p * n + delta.index;
      const offset = sent.get(index);
      const text = (offset === undefined ? echoed(p) : "") + delta.text;
      sent.set(index, (offset ?? 0) + text.length);
      return completionChoice(decode, { ...delta, text }, index, work.logprobs, offset ?? 0);
    });
  });
}

function addChatCompletions(app: Hono, answering: Answering, { limits, model }: AppOptions): void {
  const decode: Tokenizer["decode"] = (ids) => model.tokenizer.decode(ids);
  app.post("/v1/chat/completions", async (c) => {
    const body = parseBody(chatRequest, await readBody(c));
    const work = answering.admit(chatWork(model, limits, body));
    const head = { id: `chatcmpl-${randomUUID()}`, created: seconds(), model: model.name };
    if (!work.stream)
      return answering.whole(c, work, ([result]) => ({
        ...head,
        object: "chat.completion",
        choices: result!.choices.map((choice) => chatChoice(decode, choice, work.logprobs)),
      }));
    const begun = new Set<number>();
    return answering.inPieces(c, work, { ...head, object: "chat.completion.chunk" }, (delta) => {
      const first = !begun.has(delta.index);
      begun.add(delta.index);
      return chatDelta(decode, delta, first, work.logprobs);
    });
  });
}

const seconds = (): number => Math.floor(Date.now() / 1000);
