/**
 * `serve` as a process: a real socket, a client that leaves, signals. What it answers is tested in
 * unit/serving.test.ts.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomAdapter } from "../support/adapter.js";
import { cleanUp, reason, root, run, starter, temporary, unrunnable } from "../support/run.js";

const QUESTION = "Ben has 12 cards and buys 9 more. How many cards does Ben have now?";

afterAll(cleanUp);

describe.skipIf(unrunnable)(`serve${reason}`, () => {
  const start = async (model: string, ...more: string[]) => {
    const args = ["dist/cli.js", "serve", model, "--port", "0", "--threads", "1", "--model-name", "starter", ...more];
    const server = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    const [line] = (await once(createInterface(server.stdout), "line")) as [string];
    return { server, url: /http:\S+\/v1/.exec(line)![0] };
  };
  let server: Awaited<ReturnType<typeof start>>["server"];
  let url: string;
  beforeAll(async () => {
    ({ server, url } = await start(starter));
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/v1$/);
  });
  afterAll(() => server.kill("SIGKILL"));

  const ask = (body: object, signal?: AbortSignal) =>
    fetch(`${url}/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: "starter", ...body }),
      ...(signal !== undefined && { signal }),
    });
  const health = async () =>
    (await (await fetch(url.replace(/v1$/, "health"))).json()) as {
      completions: { running_or_queued: number };
      requests: { open: number; cancelled: number };
    };

  /** The greedy answer to a chat. */
  const greedy = async (to: string): Promise<string> => {
    const messages = [{ role: "user", content: QUESTION }];
    const response = await fetch(`${to}/chat/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: "starter", messages, temperature: 0, max_tokens: 64 }),
    });
    const { choices } = (await response.json()) as { choices: { message: { content: string } }[] };
    return choices[0]!.message.content;
  };
  const inferred = async (model: string): Promise<string> => {
    const args = ["infer", model, "--prompt", QUESTION, "--greedy", "--max-new-tokens", "64"];
    return (await run("cli", args)).stdout.replace(/\n$/, "");
  };

  it("its greedy chat answer is that of infer --greedy", async () => {
    expect(await greedy(url)).toBe(await inferred(starter));
  });

  it("an adapter folder is answered for as the merged model, by several engines too", async () => {
    const { adapter, merged } = randomAdapter(starter, temporary(), 0.2);
    const own = await start(adapter, "--engines", "2");
    try {
      const expected = await inferred(merged);
      expect(await Promise.all([greedy(own.url), greedy(own.url)])).toEqual([expected, expected]);
      expect(await greedy(url)).not.toBe(expected);
    } finally {
      own.server.kill("SIGKILL");
    }
  });

  it.each([false, true])("a client that leaves frees its places (stream %s)", async (stream) => {
    const before = (await health()).requests.cancelled;
    const abort = new AbortController();
    // at this temperature no row of a batch this large ends by itself
    const request = ask({ prompt: "Ben", n: 64, max_tokens: 500, temperature: 100, stream }, abort.signal);
    while ((await health()).completions.running_or_queued === 0);
    abort.abort();
    await request.then((response) => response.text()).catch(() => {});
    while ((await health()).requests.open > 0);
    expect(await health()).toMatchObject({
      completions: { running_or_queued: 0 },
      requests: { cancelled: before + 1 },
    });
  });

  it("SIGUSR1 opens no debugger and ends nothing", async () => {
    const errors: string[] = [];
    server.stderr.on("data", (data: Buffer) => errors.push(data.toString()));
    server.kill("SIGUSR1");
    expect(await greedy(url)).toBe(await inferred(starter));
    expect(errors.join("")).toBe("");
  });

  it("SIGTERM: what runs is answered, then the process ends well", async () => {
    const request = ask({ prompt: "Ben has", max_tokens: 200, temperature: 100, n: 8 });
    while ((await health()).requests.open === 0);
    server.kill("SIGTERM");
    const response = await request;
    expect(response.status).toBe(200);
    expect(((await response.json()) as { choices: unknown[] }).choices).toHaveLength(8);
    expect(await once(server, "exit")).toEqual([0, null]);
  });

  it("a used port ends it, with one message", async () => {
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    const { port } = taken.address() as AddressInfo;
    const { code, stderr } = await run("cli", ["serve", starter, "--port", String(port)]);
    taken.close();
    expect([code, stderr]).toEqual([
      1,
      `error: --host 127.0.0.1 --port ${port}: cannot listen (EADDRINUSE). Choose another port.\n`,
    ]);
  });

  it("another host than loopback is refused without a key", async () => {
    const { code, stderr } = await run("cli", ["serve", starter, "--host", "0.0.0.0", "--port", "0"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: --host 0\.0\.0\.0: expected a loopback address.*API key/);
  });
});
