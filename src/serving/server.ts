/** Listens for HTTP requests and answers them until a signal comes. */
import type { AddressInfo } from "node:net";
import type { Server } from "node:http";
import { setTimeout } from "node:timers/promises";
import { serve } from "@hono/node-server";
import { EnginePool, type PoolOptions } from "../engine/pool.js";
import { UserError, messageOf } from "../errors.js";
import { notAppliedNote } from "../model/generation-config.js";
import { readModel } from "../model/read-model.js";
import { turnEndNote } from "../model/tokenizer.js";
import { isLoopback } from "../protocol/address.js";
import { createApp } from "./app.js";

export interface ServeOptions {
  readonly host: string;
  /** 0 = any free one. */
  readonly port: number;
  /** By default FINELLAMA_API_KEY of the environment, or none. */
  readonly apiKey?: string;
  /** By default the model as it was named on the command line. */
  readonly modelName?: string;
  readonly maxQueue: number;
  /** An origin, or "*". */
  readonly cors?: string;
  readonly engines: PoolOptions;
}

/** After a signal, running requests have this long to end. */
const GRACE_MS = 30_000;
/** A request has to be there, body and all, within this time: a stalled one holds memory. */
const REQUEST_MS = 60_000;
const MAX_CONNECTIONS = 2_048;

export async function runServer(spec: string, options: ServeOptions): Promise<void> {
  const { host, port, maxQueue, engines, cors } = options;
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
  if (cors !== undefined && cors !== (URL.canParse(cors) ? new URL(cors).origin : "*"))
    throw new UserError(`--cors ${cors}: expected an origin such as http://localhost:3000, found another text.`);
  if (cors === "*" && apiKey === null)
    throw new UserError("--cors *: expected an API key, because any web page could use the server. Name one origin.");
  const files = readModel(spec);
  const { shape, tokenizer, generation } = files;
  for (const note of [notAppliedNote(generation), turnEndNote(tokenizer)]) if (note !== undefined) log(note);
  const { pool, version } = await EnginePool.open(files, engines);

  let server: Server | undefined;
  try {
    const name = options.modelName ?? spec;
    const app = createApp({
      pool,
      limits: engines,
      maxQueue,
      apiKey,
      cors,
      log,
      model: { name, shape, tokenizer, temperature: generation.temperature },
    });
    server = serve({ fetch: app.fetch, hostname: host, port }) as Server;
    server.maxConnections = MAX_CONNECTIONS;
    server.requestTimeout = REQUEST_MS;
    const bound = await listening(server, host, port);
    console.log(
      `serving ${name} (weights ${version.sha256.slice(0, 12)}) on http://${host.includes(":") ? `[${host}]` : host}:${bound}/v1`,
    );
    const asked = new Promise<string>((resolve) => {
      for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve(signal));
    });
    const signal = await Promise.race([asked, pool.failed]);
    log(`${signal}: no new requests; ${app.drain()} to be answered`);
    await closed(server);
  } finally {
    server?.closeAllConnections();
    server?.close();
    await pool.stop();
  }
}

/** Resolves with the port. @throws UserError when the server cannot listen */
async function listening(server: Server, host: string, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once("listening", resolve);
    server.once("error", (error: NodeJS.ErrnoException) => {
      const why = error.code ?? messageOf(error);
      reject(new UserError(`--host ${host} --port ${port}: cannot listen (${why}). Choose another port.`));
    });
  });
  return (server.address() as AddressInfo).port;
}

async function closed(server: Server): Promise<void> {
  const timer = new AbortController();
  const all = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  await Promise.race([all, setTimeout(GRACE_MS, undefined, { signal: timer.signal }).catch(() => {})]);
  timer.abort();
}

function log(line: string): void {
  process.stderr.write(`${line}\n`);
}
