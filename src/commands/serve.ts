/** `serve`: an OpenAI-compatible HTTP server for a model folder or adapter. The engine has a thread of its own. */
import { availableParallelism } from "node:os";
import type { AddressInfo } from "node:net";
import type { Server } from "node:http";
import { Worker } from "node:worker_threads";
import { serve } from "@hono/node-server";
import type { EngineThreadData } from "../actors/engine-thread.js";
import { readModel } from "../actors/local.js";
import { UserError, messageOf } from "../errors.js";
import { notAppliedNote, readGenerationConfig } from "../model/generation-config.js";
import { resolveModelFolder } from "../model/hub.js";
import { isLoopback } from "../serving/access.js";
import { createApp } from "../serving/app.js";
import { EngineClient } from "../serving/engine-client.js";

export interface ServeOptions {
  readonly host: string;
  /** 0 = any free one. */
  readonly port: number;
  /** Undefined = FINELLAMA_API_KEY of the environment, or none. */
  readonly apiKey?: string;
  /** Undefined = the model as it was named on the command line. */
  readonly modelName?: string;
  readonly maxRows: number;
  readonly segmentLength: number;
  readonly maxQueue: number;
  /** 0 = all cores. */
  readonly threads: number;
}

/** What runs when a signal comes has this long to be answered. */
const GRACE_MS = 30_000;

export async function runServe(spec: string, options: ServeOptions): Promise<void> {
  const { host, port, maxRows, segmentLength, maxQueue } = options;
  const apiKey = options.apiKey ?? process.env["FINELLAMA_API_KEY"] ?? null;
  if (apiKey !== null && !/^[A-Za-z0-9._~+/-]{8,}=*$/.test(apiKey))
    throw new UserError(
      "--api-key: expected 8 or more letters, digits or . _ ~ + / - (a bearer token), found another text.",
    );
  if (apiKey === null && !isLoopback(host))
    throw new UserError(
      `--host ${host}: expected a loopback address, because anybody who reaches another one could use the server. ` +
        `Give an API key (FINELLAMA_API_KEY in the environment, or --api-key), or keep 127.0.0.1.`,
    );
  const { config, tokenizer, baseFolder, lora, published } = readModel(spec);
  const generation = readGenerationConfig(resolveModelFolder(spec));
  const note = notAppliedNote(generation);
  if (note !== undefined) log(note);

  const limits = { threads: options.threads || availableParallelism(), maxRows, segmentLength };
  const workerData: EngineThreadData = {
    model: config,
    options: limits,
    lora: lora === null ? null : { spec: lora, baseFolder },
  };
  const thread = new Worker(new URL("../actors/engine-thread.js", import.meta.url), { workerData });
  const ended = new Promise((resolve) => thread.once("exit", resolve));
  const engine = new EngineClient(thread);
  const version = await engine.load(published());

  const name = options.modelName ?? spec;
  const app = createApp({
    engine,
    limits,
    maxQueue,
    apiKey,
    log,
    model: { name, config, tokenizer, temperature: generation.temperature },
  });
  const server = serve({ fetch: app.fetch, hostname: host, port }) as Server;
  await new Promise<void>((resolve, reject) => {
    server.once("listening", resolve);
    server.once("error", (error: NodeJS.ErrnoException) =>
      reject(
        new UserError(
          `--host ${host} --port ${port}: cannot listen (${error.code ?? messageOf(error)}). Choose another port.`,
        ),
      ),
    );
  });
  const bound = (server.address() as AddressInfo).port;
  console.log(
    `serving ${name} (weights ${version.sha256.slice(0, 12)}) on http://${host.includes(":") ? `[${host}]` : host}:${bound}/v1`,
  );

  const asked = new Promise<string>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve(signal));
  });
  try {
    const signal = await Promise.race([asked, engine.failed]);
    log(`${signal}: no new requests; ${app.drain()} to be answered`);
    await closed(server);
  } finally {
    server.closeAllConnections();
    server.close();
    engine.stop();
    await ended;
  }
}

/** Resolves when every connection has ended, or after the grace period. */
async function closed(server: Server): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, GRACE_MS);
    server.close(() => {
      clearTimeout(timer);
      resolve();
    });
    server.closeIdleConnections();
  });
}

function log(line: string): void {
  process.stderr.write(`${line}\n`);
}
