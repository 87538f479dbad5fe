/**
 * The HTTP surface of `serve`, without sockets: requests go to the app, the engine answers over a
 * message channel.
 */
import { fileURLToPath } from "node:url";
import { MessageChannel } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { serveEngine } from "../../src/engine/engine-thread.js";
import { generateAll, startEngine } from "../../src/engine/local.js";
import { EnginePool, type EnginePort } from "../../src/engine/pool.js";
import { readModel } from "../../src/model/read-model.js";
import { taskSeed } from "../../src/protocol/seeds.js";
import { runServer } from "../../src/serving/server.js";
import { createApp, type AppOptions } from "../../src/serving/app.js";

const QUESTION = "Ben has 12 cards and buys 9 more. How many cards does Ben have now?";
const limits = { threads: 1, maxRows: 16, segmentLength: 8 };

interface Logprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[] | null;
  text_offset: number[];
}
interface Answer {
  choices: { index: number; text: string; finish_reason: string | null; logprobs: Logprobs | null }[];
  usage: { prompt_tokens: number; completion_tokens: number };
}
interface ChatAnswer {
  choices: {
    message: { content: string };
    finish_reason: string;
    logprobs: { content: { token: string; logprob: number; top_logprobs: { token: string; logprob: number }[] }[] };
  }[];
}
interface ErrorAnswer {
  error: { message: string; type: string; param: string | null; code: string | null };
}

const openModel = async (spec: string) => {
  const model = readModel(spec);
  return { ...model, engine: await startEngine(model, 1) };
};
let local: Awaited<ReturnType<typeof openModel>>;
/** The same model, not served: what the answers should be. */
let reference: typeof local;
let pool: EnginePool;
let app: ReturnType<typeof createApp>;
let settings: AppOptions;
const logged: string[] = [];
beforeAll(async () => {
  const starter = fileURLToPath(new URL("../../assets/starter", import.meta.url));
  [local, reference] = [await openModel(starter), await openModel(starter)];
  const { port1, port2 } = new MessageChannel();
  serveEngine(port2, local.engine);
  pool = new EnginePool([port1 as unknown as EnginePort], limits.maxRows);
  const { shape, tokenizer } = local;
  settings = {
    pool,
    limits,
    maxQueue: 16,
    apiKey: null,
    log: (line) => logged.push(line),
    model: { name: "starter", shape: shape, tokenizer, temperature: 1 },
  };
  app = createApp(settings);
});
afterAll(async () => {
  void pool.stop(); // a channel has no end to wait for
  await reference.engine.dispose();
  expect(logged).toEqual([]);
});

const post = (path: string, body: unknown, init: RequestInit = {}, to = app): Promise<Response> =>
  Promise.resolve(
    to.request(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: typeof body === "string" ? body : JSON.stringify(body),
      ...init,
    }),
  );
const complete = async (body: object): Promise<Answer> => {
  const response = await post("/v1/completions", { model: "starter", ...body });
  const json: unknown = await response.json();
  expect(response.status, JSON.stringify(json)).toBe(200);
  return json as Answer;
};
const chat = async (body: object): Promise<ChatAnswer> => {
  const messages = [{ role: "user", content: QUESTION }];
  const response = await post("/v1/chat/completions", { model: "starter", messages, ...body });
  expect(response.status).toBe(200);
  return (await response.json()) as ChatAnswer;
};
/** The events of a stream, which must end with [DONE]. */
async function events<T>(response: Response): Promise<T[]> {
  expect(response.headers.get("Content-Type")).toBe("text/event-stream");
  const data = (await response.text()).split("\n\n").filter((line) => line !== "");
  expect(data.pop()).toBe("data: [DONE]");
  return data.map((line) => JSON.parse(line.replace(/^data: /, "")) as T);
}

/** What an engine says without a server. */
async function direct(promptIds: Int32Array, seed: bigint, temperature: number, maxNewTokens: number, groupSize = 1) {
  const { tokenizer } = local;
  const request = { requestId: "direct", promptIds, groupSize, seed };
  const sampling = { temperature, maxNewTokens, stopIds: tokenizer.stopIds };
  const [group] = await generateAll(reference.engine, [{ ...request, sampling }]);
  return group!.completions;
}

describe("completions", () => {
  test("chat text is the engine's greedy text; so is the raw completion of the rendered chat", async () => {
    const prompt = local.tokenizer.renderChat([{ role: "user", content: QUESTION }]);
    const promptIds = local.tokenizer.encode(prompt, { addSpecial: false });
    const [expected] = await direct(promptIds, 0n, 0, 64);
    const text = local.tokenizer.decode(expected!.ids.subarray(0, -1));
    const answer = await chat({ temperature: 0, max_tokens: 64, logprobs: true, top_logprobs: 1 });
    expect(answer.choices[0]!.message.content).toBe(text);
    expect(text).toMatch(/#### 21$/);
    expect(answer.choices[0]!.finish_reason).toBe("stop");
    const { content } = answer.choices[0]!.logprobs;
    expect(content.map(({ logprob }) => logprob)).toEqual([...expected!.logprobs]);
    for (const { token, logprob, top_logprobs } of content) expect(top_logprobs[0]).toMatchObject({ token, logprob });
    for (const given of [prompt, [...promptIds]]) {
      const { choices, usage } = await complete({ prompt: given, temperature: 0, max_tokens: 64 });
      expect(choices[0]).toMatchObject({ index: 0, text, finish_reason: "stop", logprobs: null });
      expect(usage).toMatchObject({ prompt_tokens: promptIds.length, completion_tokens: expected!.ids.length });
    }
  });

  test("a seed is the sampling of `infer --seed`, and repeats; without one, answers differ", async () => {
    const promptIds = local.tokenizer.encode("Ben has");
    const expected = await direct(promptIds, taskSeed(7, "infer"), 2, 12, 2);
    const body = { prompt: "Ben has", n: 2, temperature: 2, max_tokens: 12 };
    const { choices } = await complete({ ...body, seed: 7 });
    expect(choices.map(({ text }) => text)).toEqual(
      expected.map(({ ids, finishReason }) =>
        local.tokenizer.decode(finishReason === "stop" ? ids.subarray(0, -1) : ids),
      ),
    );
    expect((await complete(body)).choices[0]!.text).not.toBe((await complete(body)).choices[0]!.text);
  });

  test("prompts of every form, several at once, choices in order", async () => {
    const texts = ["Ben has", "Tom buys"];
    const single = await Promise.all(texts.map((prompt) => complete({ prompt, temperature: 0, max_tokens: 6 })));
    const expected = single.map(({ choices }) => choices[0]!.text);
    const ids = texts.map((text) => [...local.tokenizer.encode(text)]);
    for (const prompt of [texts, ids]) {
      const { choices } = await complete({ prompt, n: 2, temperature: 0, max_tokens: 6 });
      expect(choices.map(({ index }) => index)).toEqual([0, 1, 2, 3]);
      expect(choices.map(({ text }) => text)).toEqual([expected[0], expected[0], expected[1], expected[1]]);
    }
  });

  test("echo and logprobs score the prompt, as lm-eval reads it: sums of forced tokens, greedy verdicts", async () => {
    const [greedy] = await direct(local.tokenizer.encode("Ben has"), 0n, 0, 5);
    const prompt = [...local.tokenizer.encode("Ben has"), ...greedy!.ids];
    const { choices } = await complete({ prompt, echo: true, logprobs: 1, max_tokens: 1, temperature: 0 });
    const { tokens, token_logprobs, top_logprobs, text_offset } = choices[0]!.logprobs!;
    const start = prompt.length - greedy!.ids.length;
    expect(token_logprobs[0]).toBeNull();
    // token by token: prefill and decode order may differ in the last bits
    token_logprobs.slice(start, -1).forEach((value, t) => expect(value).toBeCloseTo(greedy!.logprobs[t]!, 5));
    for (const [t, value] of token_logprobs.slice(start, -1).entries())
      expect(Math.max(...Object.values(top_logprobs!.slice(start, -1)[t]!))).toBe(value);
    expect(choices[0]!.text).toBe(tokens.join(""));
    expect(tokens).toHaveLength(prompt.length + 1);
    expect(text_offset.at(-1)).toBe(choices[0]!.text.length - tokens.at(-1)!.length);
    const other = await complete({ prompt: [...prompt.slice(0, -1), 5], echo: true, logprobs: 1, max_tokens: 0 });
    const last = other.choices[0]!.logprobs!;
    expect(last.tokens).toHaveLength(prompt.length);
    expect(Math.max(...Object.values(last.top_logprobs!.at(-1)!))).toBeGreaterThan(last.token_logprobs.at(-1)!);
  });

  test("stop strings and stop ids end a choice, alone of its group", async () => {
    const whole = (await chat({ temperature: 0, max_tokens: 64 })).choices[0]!.message.content;
    const cut = await chat({ temperature: 0, max_tokens: 64, stop: ["####", "never"] });
    expect(cut.choices[0]!.message.content).toBe(whole.slice(0, whole.indexOf("####")));
    expect(cut.choices[0]!.finish_reason).toBe("stop");
    const body = { prompt: "Ben has", temperature: 2, n: 4, seed: 3, max_tokens: 40 };
    const free = await complete(body);
    const stop = free.choices[2]!.text.slice(3, 6);
    const some = await complete({ ...body, stop });
    for (const [c, { text, finish_reason }] of some.choices.entries()) {
      const at = free.choices[c]!.text.indexOf(stop);
      expect(text).toBe(at < 0 ? free.choices[c]!.text : free.choices[c]!.text.slice(0, at));
      expect(finish_reason).toBe(at < 0 ? free.choices[c]!.finish_reason : "stop");
    }
    const id = local.tokenizer.encode("=", { addSpecial: false })[0]!;
    const ended = await chat({ temperature: 0, max_tokens: 64, stop_token_ids: [id] });
    expect(ended.choices[0]!.message.content).toBe(whole.slice(0, whole.indexOf("=")));
  });
});

describe("streams", () => {
  test("the pieces are the whole answer; usage comes when asked for", async () => {
    const body = { prompt: ["Ben has", "Tom buys"], n: 2, seed: 5, temperature: 1, max_tokens: 30 };
    const whole = await complete({ ...body, logprobs: 0 });
    const response = await post("/v1/completions", {
      model: "starter",
      ...body,
      logprobs: 0,
      stream: true,
      stream_options: { include_usage: true },
    });
    const pieces = await events<Answer>(response);
    expect(pieces.length).toBeGreaterThan(5);
    expect(pieces.pop()).toMatchObject({ choices: [], usage: whole.usage });
    for (const { index, text, finish_reason, logprobs } of whole.choices) {
      const own = pieces.flatMap(({ choices }) => choices).filter((choice) => choice.index === index);
      expect(own.map((choice) => choice.text).join("")).toBe(text);
      expect(own.flatMap((choice) => choice.logprobs!.token_logprobs)).toEqual(logprobs!.token_logprobs);
      expect(own.map((choice) => choice.finish_reason)).toEqual([...own.slice(1).map(() => null), finish_reason]);
    }
  });

  test("chat: the role once, no part of a stop string, the rest at the end", async () => {
    const whole = (await chat({ temperature: 0, max_tokens: 64, stop: "####" })).choices[0]!.message.content;
    const messages = [{ role: "user", content: [{ type: "text", text: QUESTION }] }];
    const response = await post("/v1/chat/completions", {
      model: "starter",
      messages,
      temperature: 0,
      max_completion_tokens: 64,
      stop: "####",
      stream: true,
    });
    const pieces = await events<{ choices: { delta: { role?: string; content: string } }[] }>(response);
    const deltas = pieces.map(({ choices }) => choices[0]!.delta);
    expect(deltas.map(({ role }) => role)).toEqual(["assistant", ...deltas.slice(1).map(() => undefined)]);
    expect(deltas.map(({ content }) => content).join("")).toBe(whole);
  });
});

describe("limits", () => {
  const health = async () => (await (await app.request("/health")).json()) as { requests: Record<string, number> };

  test("a client that goes away takes its request with it", async () => {
    const before = (await health()).requests["cancelled"]!;
    const abort = new AbortController();
    const body = { model: "starter", prompt: "Ben has", max_tokens: 400, n: 8, temperature: 5 };
    const waiting = post("/v1/completions", body, { signal: abort.signal }).catch(() => {});
    const response = await post("/v1/completions", { ...body, stream: true });
    await new Promise((done) => setTimeout(done, 5));
    expect(pool.rows).toBe(16);
    abort.abort();
    await response.body!.cancel();
    await waiting;
    expect(pool.rows).toBe(0);
    expect((await health()).requests).toMatchObject({ cancelled: before + 2, open: 0 });
  });

  test("more than batch and queue hold is refused for now, and later served", async () => {
    const body = { model: "starter", prompt: "Ben has", max_tokens: 8, n: 16 };
    const running = [post("/v1/completions", body), post("/v1/completions", body)];
    await new Promise((done) => setImmediate(done));
    const refused = await post("/v1/completions", { ...body, n: 1 });
    expect(refused.status).toBe(429);
    expect(refused.headers.get("Retry-After")).toBe("1");
    for (const response of await Promise.all(running)) expect(response.status).toBe(200);
    expect((await post("/v1/completions", { ...body, n: 1 })).status).toBe(200);
  });

  test("a server that stops takes nothing new", async () => {
    const stopping = createApp(settings);
    expect(stopping.drain()).toBe(0);
    const response = await post("/v1/completions", { model: "starter", prompt: "a" }, {}, stopping);
    expect(response.status).toBe(503);
  });

  test.each<[string, object, number, RegExp]>([
    ["completions", { prompt: "a", top_p: 0.9 }, 400, /^top_p: only 1 is served/],
    ["completions", { prompt: "a", surprise: 1 }, 400, /^surprise: not served/],
    ["completions", { prompt: "a", logprobs: 5 }, 400, /^logprobs: at most 1/],
    ["completions", { prompt: "" }, 400, /^prompt: expected at least one token/],
    ["completions", { prompt: [] }, 400, /^prompt: expected a string/],
    ["completions", { prompt: [[1], []] }, 400, /^prompt.1: Too small/],
    ["completions", { prompt: [70000] }, 400, /^token id 70000 is outside the vocabulary/],
    ["completions", { prompt: "a", max_tokens: 512 }, 400, /exceed the model's context of 512/],
    ["completions", { prompt: "a", n: 17 }, 400, /^n: expected at most 16 .*, found 17/],
    ["completions", { prompt: "a", model: "gpt-4" }, 404, /^model: expected "starter", found "gpt-4"/],
    ["chat/completions", { messages: [] }, 400, /^messages: /],
    ["chat/completions", { messages: [{ role: "tool", content: "a" }] }, 400, /^messages\.0\.role: /],
    ["chat/completions", { messages: [{ role: "user", content: "a" }], tools: [{}] }, 400, /^tools/],
    ["chat/completions", { messages: [{ role: "user", content: "a" }], top_logprobs: 1 }, 400, /expects logprobs true/],
    ["embeddings", { input: "a" }, 404, /there is no POST \/v1\/embeddings; served are \/v1\/completions/],
  ])("%s with %j is refused by OpenAI's error", async (path, body, status, message) => {
    const response = await post(`/v1/${path}`, { model: "starter", ...body });
    expect(response.status).toBe(status);
    const { error } = (await response.json()) as ErrorAnswer;
    expect(error.message).toMatch(message);
    expect(error.type).toBe("invalid_request_error");
  });

  test("a body that is too large, no JSON, or does not say so, is refused", async () => {
    const large = JSON.stringify({ model: "starter", prompt: "a".repeat(9 << 20) });
    expect((await post("/v1/completions", large)).status).toBe(413);
    expect((await post("/v1/completions", "{")).status).toBe(400);
    const plain = { headers: { "Content-Type": "text/plain" } };
    expect((await post("/v1/completions", { model: "starter", prompt: "a" }, plain)).status).toBe(415);
  });

  test("bodies that do not come leave room for those that ask for none", async () => {
    const apart = createApp(settings);
    const half: object = { duplex: "half" };
    const stalled = (): RequestInit => ({ body: new ReadableStream({ pull: () => new Promise(() => {}) }), ...half });
    for (let i = 0; i < 128; i++) void post("/v1/completions", "", stalled(), apart);
    const refused = await post("/v1/completions", { model: "starter", prompt: "a" }, {}, apart);
    expect(refused.status).toBe(503);
    expect(((await refused.json()) as ErrorAnswer).error.message).toMatch(/bodies of open requests/);
    expect((await apart.request("/health")).status).toBe(200);
  });
});

describe("access", () => {
  test("preflight requests are answered for the origin that --cors names, and for no other", async () => {
    const origin = "http://localhost:3000";
    const preflight = (to: ReturnType<typeof createApp>, from: string): Promise<Response> =>
      Promise.resolve(
        to.request("/v1/chat/completions", {
          method: "OPTIONS",
          headers: {
            Origin: from,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
          },
        }),
      );
    // browsers send no key with it
    const withKey = createApp({ ...settings, apiKey: "secret-key", cors: origin });
    const allowed = await preflight(withKey, origin);
    expect(allowed.status).toBe(204);
    expect(allowed.headers.get("Access-Control-Allow-Origin")).toBe(origin);
    expect(allowed.headers.get("Access-Control-Allow-Methods")).toContain("POST");
    expect(allowed.headers.get("Access-Control-Allow-Headers")).toBe("authorization,content-type");
    expect((await preflight(withKey, "http://other.example")).headers.get("Access-Control-Allow-Origin")).toBeNull();
    const models = (headers: Record<string, string>) => withKey.request("/v1/models", { headers });
    expect((await models({ Origin: origin })).status).toBe(401);
    const answer = await models({ Origin: origin, Authorization: "Bearer secret-key" });
    expect(answer.headers.get("Access-Control-Allow-Origin")).toBe(origin);
    // off by default
    expect((await preflight(app, origin)).status).toBe(404);
    expect((await preflight(app, origin)).headers.get("Access-Control-Allow-Origin")).toBeNull();
  });

  test.each([
    ["localhost:3000", /--cors localhost:3000: expected an origin/],
    ["http://localhost:3000/page", /expected an origin such as/],
    ["*", /--cors \*: expected an API key/],
  ])("--cors %s is refused", async (origin, message) => {
    const options = { host: "127.0.0.1", port: 0, maxQueue: 1, engines: { ...limits, engines: 1 }, cors: origin };
    await expect(runServer("nowhere", options)).rejects.toThrow(message);
  });

  test("without a key, only loopback names reach the server", async () => {
    for (const host of ["localhost", "127.0.0.1:8000", "[::1]"])
      expect((await app.request(`http://${host}/v1/models`)).status).toBe(200);
    expect((await app.request("http://rebound.example/v1/models")).status).toBe(403);
  });

  test("with a key, the API wants it from everybody, and /health tells nothing but counts", async () => {
    const locked = createApp({ ...settings, apiKey: "secret-key" });
    const ask = (authorization?: string) =>
      locked.request("http://any.example/v1/models", {
        headers: authorization === undefined ? {} : { Authorization: authorization },
      });
    expect((await ask("Bearer secret-key")).status).toBe(200);
    for (const header of [undefined, "Bearer secret-kez", "Bearer secret-key2"]) {
      const response = await ask(header);
      expect(response.status).toBe(401);
      expect(((await response.json()) as ErrorAnswer).error.code).toBe("invalid_api_key");
    }
    expect((await ask("Basic secret-key")).status).toBe(400);
    expect((await locked.request("http://any.example/health")).status).toBe(200);
  });

  test("models lists the one there is", async () => {
    const { data } = (await (await app.request("/v1/models")).json()) as { data: { id: string }[] };
    expect(data.map(({ id }) => id)).toEqual(["starter"]);
    expect((await app.request("/v1/models/starter")).status).toBe(200);
    expect((await app.request("/v1/models/other")).status).toBe(404);
  });
});
