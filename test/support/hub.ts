/**
 * A stand-in of the Hugging Face hub on loopback, with the answers that @huggingface/hub and
 * Python's huggingface_hub ask for: model info, file tree, resolve with ranges. LFS files redirect
 * to a second address, as the hub's do to its storage.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly authorization: string | undefined;
  readonly range: string | undefined;
  readonly storage: boolean;
}

export interface StandIn {
  readonly url: string;
  readonly commit: string;
  /** Every request so far. */
  readonly asked: Asked[];
  /** Refuses requests whose path matches. */
  refuse: { path: RegExp; status: number; code?: string } | undefined;
  /**
   * Answers a file's transfer itself and returns true; `bytes` is what the hub would send from
   * `begin` on.
   */
  transfer: ((name: string, response: ServerResponse, bytes: Buffer, begin: number) => boolean) | undefined;
  /** Overrides what the tree says of a file. */
  tree: Record<string, object>;
  close(): Promise<void>;
}

const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
const gitHash = (bytes: Buffer): string =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
/** The name of a file's content in blobs/. */
export const etagOf = (name: string, bytes: Buffer): string => (isLfs(name) ? sha256(bytes) : gitHash(bytes));
const isLfs = (name: string): boolean => name.endsWith(".safetensors") || name.endsWith(".bin");

/** @param port 0 = any */
export async function startHub(repo: string, files: Readonly<Record<string, Buffer>>, port = 0): Promise<StandIn> {
  const commit = createHash("sha1")
    .update(JSON.stringify(Object.keys(files)))
    .digest("hex");
  const handle = (storage: boolean) => (request: IncomingMessage, response: ServerResponse) => {
    const path = (request.url ?? "").split("?")[0]!;
    const { authorization, range } = request.headers;
    standIn.asked.push({ method: request.method ?? "", path, authorization, range, storage });
    response.setHeader("x-repo-commit", commit);
    const fail = (status: number, code?: string): void => {
      if (code !== undefined) response.setHeader("x-error-code", code);
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ error: "refused" }));
    };
    if (standIn.refuse?.path.test(path) === true) return fail(standIn.refuse.status, standIn.refuse.code);
    const json = (value: unknown): void => {
      response.setHeader("content-type", "application/json").end(JSON.stringify(value));
    };
    const [, revision, name] = new RegExp(`^/${repo}/resolve/([^/]+)/(.+)$`).exec(path) ?? [];
    if (path.startsWith(`/api/models/${repo}/tree/`)) return json(tree());
    if (path.startsWith(`/api/models/${repo}/revision/`) || path === `/api/models/${repo}`)
      return /\/revision\/(?!main$|HEAD$|v1$)/.test(path) && !path.endsWith(commit)
        ? fail(404, "RevisionNotFound")
        : json({
            _id: "1",
            id: repo,
            sha: commit,
            private: false,
            siblings: Object.keys(files).map((rfilename) => ({ rfilename })),
          });
    if (revision === undefined || name === undefined) return fail(404, "RepoNotFound");
    const bytes = files[name];
    if (bytes === undefined) return fail(404, "EntryNotFound");
    const etag = etagOf(name, bytes);
    if (isLfs(name) && !storage) {
      const location = `${storageUrl}${path}`;
      response.setHeader("x-linked-size", bytes.length).setHeader("x-linked-etag", `"${etag}"`);
      return void response.writeHead(302, { location }).end();
    }
    response.setHeader("etag", `"${etag}"`).setHeader("accept-ranges", "bytes");
    const begin = Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0);
    const rest = bytes.subarray(begin);
    if (request.method !== "HEAD" && standIn.transfer?.(name, response, rest, begin) === true) return;
    if (range !== undefined) response.setHeader("content-range", `bytes ${begin}-${bytes.length - 1}/${bytes.length}`);
    response.writeHead(range === undefined ? 200 : 206, { "content-length": rest.length });
    response.end(request.method === "HEAD" ? undefined : rest);
  };
  const tree = (): object[] =>
    Object.entries(files).map(([path, bytes]) => ({
      type: "file",
      path,
      size: bytes.length,
      oid: gitHash(bytes),
      ...(isLfs(path) ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 130 } } : {}),
      ...standIn.tree[path],
    }));

  const [hub, hubUrl] = await listen(createServer(handle(false)), port);
  const [storage, storageUrl] = await listen(createServer(handle(true)), 0);
  const standIn: StandIn = {
    url: hubUrl,
    commit,
    asked: [],
    refuse: undefined,
    transfer: undefined,
    tree: {},
    close: async () => {
      for (const server of [hub, storage]) {
        server.closeAllConnections();
        await new Promise((done) => server.close(done));
      }
    },
  };
  return standIn;
}

async function listen(server: Server, port: number): Promise<[Server, string]> {
  await new Promise<void>((done) => server.listen(port, "127.0.0.1", done));
  return [server, `http://127.0.0.1:${(server.address() as AddressInfo).port}`];
}
