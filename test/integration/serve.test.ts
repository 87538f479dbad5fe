/** `serve` as a process: a real socket, a client that leaves, signals. What it answers is tested in unit/serving.test.ts. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cleanUp, reason, root, run, starter, unrunnable } from "../support/run.js";

const QUESTION = "Ben has 12 cards and buys 9 more. How many cards does Ben have now?";

afterAll(cleanUp);

describe.skipIf(unrunnable)(`serve${reason}`, () => {
  const child = () => {
    const args = ["dist/cli.js", "serve", starter, "--port", "0", "--threads", "1", "--model-name", "starter"];
    return spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  };
  let server: ReturnType<typeof child>;
  let url: string;
  beforeAll(async () => {
    server = child();
    const [line] = (await once(createInterface(server.stdout), "line")) as [string];
    url = /http:\S+\/v1/.exec(line)![0];
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

  it("its greedy chat answer is that of infer --greedy", async () => {
    const messages = [{ role: "user", content: QUESTION }];
    const response = await fetch(`${url}/chat/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: "starter", messages, temperature: 0, max_tokens: 256 }),
    });
    const { choices } = (await response.json()) as { choices: { message: { content: string } }[] };
    const infer = await run("cli", ["infer", "--model", starter, "--prompt", QUESTION, "--greedy"]);
    expect(`${choices[0]!.message.content}\n`).toBe(infer.stdout);
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

  it("SIGTERM: what runs is answered, then the process ends well", async () => {
    const request = ask({ prompt: "Ben has", max_tokens: 200, temperature: 100, n: 8 });
    while ((await health()).requests.open === 0);
    server.kill("SIGTERM");
    const response = await request;
    expect(response.status).toBe(200);
    expect(((await response.json()) as { choices: unknown[] }).choices).toHaveLength(8);
    expect(await once(server, "exit")).toEqual([0, null]);
  });

  it("another host than loopback is refused without a key", async () => {
    const { code, stderr } = await run("cli", ["serve", starter, "--host", "0.0.0.0", "--port", "0"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: --host 0\.0\.0\.0: expected a loopback address.*API key/);
  });
});
