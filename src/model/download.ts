/**
 * Downloads a model into the hub's cache, whole or not at all: a snapshot's reference comes last.
 * Unlike huggingface/hub's `snapshotDownload` (2.17) it resumes and checks hashes. A file arrives
 * as `blobs/<etag>.incomplete`; bytes go to their own position, so parallel downloads do no harm.
 */
import { createHash } from "node:crypto";
import { constants, createReadStream, existsSync, statSync } from "node:fs";
import { mkdir, open, rename, rm, statfs, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { listFiles, modelInfo } from "@huggingface/hub";
import { z } from "zod";
import { UserError, messageOf } from "../errors.js";
import { type Environment, findSnapshot, hubCache, isCommit, isHubId, missingFiles, repoCache } from "./hub.js";
import { optionalFiles, requiredFiles } from "./folder.js";
import { SHARD_INDEX, readShardIndex } from "./safetensors/read.js";
import { type HubClient, Transient, hubClient, isOffline, networkReason } from "./hub-client.js";

export interface DownloadProgress {
  /** Bytes of all files, and of those here already; called again when more files become known. */
  total(bytes: number, present: number): void;
  /** Bytes that arrived; negative when some are given up. */
  add(bytes: number): void;
  note(line: string): void;
}

export interface DownloadOptions {
  /** Branch, tag or commit; default `main`. */
  readonly revision?: string | undefined;
  readonly progress: DownloadProgress;
  readonly env?: Environment;
  /** Where `.env` is looked for. */
  readonly cwd?: string;
  /** Pause before a new attempt; doubles with each that brings nothing. */
  readonly retryDelayMs?: number;
}

const smallFiles = [
  "config.json",
  ...requiredFiles,
  ...optionalFiles,
  "adapter_config.json",
  "adapter_model.safetensors",
];
/** Attempts in a row that bring no byte before a download is given up. */
const FRUITLESS_ATTEMPTS = 5;

const hex = (digits: number) => z.string().regex(new RegExp(`^[0-9a-f]{${digits}}$`));
/** A file of the repository; `etag` is the name its content has in blobs/. */
const remoteFile = z
  .object({
    path: z.string(),
    size: z.int().nonnegative(),
    oid: hex(40),
    lfs: z.object({ oid: hex(64), size: z.int().nonnegative() }).optional(),
  })
  .transform(({ path: name, size, oid, lfs }) => ({
    name,
    size: lfs?.size ?? size,
    etag: lfs?.oid ?? oid,
    isLfs: lfs !== undefined,
  }));
type RemoteFile = z.infer<typeof remoteFile>;

/** Where a download reads from and writes to. */
interface Place {
  readonly hub: HubClient;
  readonly repo: string;
  readonly commit: string;
  readonly blobs: string;
  readonly snapshot: string;
  readonly progress: DownloadProgress;
  readonly retryDelayMs: number;
}

/**
 * Downloads config, tokenizer and safetensors that the cache lacks.
 * @returns the snapshot's folder; the cache's, if whole, when the hub cannot be reached
 * @throws UserError for anything refused, missing, damaged, cut too often, or too large
 */
export async function downloadModel(repo: string, options: DownloadOptions): Promise<string> {
  const { revision = "main", progress, env = process.env, cwd = process.cwd(), retryDelayMs = 1000 } = options;
  if (!isHubId(repo))
    throw new UserError(`"${repo}": expected a model of the hub, such as Qwen/Qwen2.5-3B-Instruct (owner/name).`);
  if (isOffline(env)) return cachedOnly(repo, revision, env, "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE");
  const hub = hubClient(repo, env, cwd);
  try {
    const { commit, files } = await inspect(hub, repo, revision);
    const folder = repoCache(repo, env);
    const snapshot = join(folder, "snapshots", commit);
    const place = { hub, repo, commit, blobs: join(folder, "blobs"), snapshot, progress, retryDelayMs };
    await onDisk(hubCache(env), async () => {
      await mkdir(place.blobs, { recursive: true });
      await mkdir(snapshot, { recursive: true });
      await fetchFiles(place, files);
      const missing = missingFiles(snapshot);
      if (missing.length > 0)
        throw new UserError(`${repo}: the repository lacks ${missing.join(", ")}. Choose another model or revision.`);
      if (isCommit(revision)) return;
      const ref = join(folder, "refs", revision);
      await mkdir(dirname(ref), { recursive: true });
      await writeFile(ref, commit);
    });
    return snapshot;
  } catch (error) {
    if (!(error instanceof Transient)) throw error;
    const folder = cachedOnly(repo, revision, env, error.message, "check the connection, HF_ENDPOINT");
    progress.note(`${error.message}; taking the model that is in the cache`);
    return folder;
  }
}

function cachedOnly(repo: string, revision: string, env: Environment, why: string, mend: string): string {
  const snapshot = findSnapshot(repo, revision, env);
  const missing = snapshot === undefined ? [] : missingFiles(snapshot);
  if (snapshot !== undefined && missing.length === 0) return snapshot;
  const found = snapshot === undefined ? "holds no such model" : `lacks ${missing.join(", ")} of it`;
  throw new UserError(
    `${repo} (${revision}): ${why}, and the cache ${hubCache(env)} ${found}. To mend this, ${mend}, or download it on a machine with a connection and copy the cache.`,
  );
}

/** The commit behind a revision, and the files at its root. */
async function inspect(hub: HubClient, repo: string, revision: string) {
  const asked = { hubUrl: hub.endpoint, fetch: hub.fetch };
  const files = new Map<string, RemoteFile>();
  try {
    const { sha } = await modelInfo({ ...asked, name: repo, revision, additionalFields: ["sha"] });
    const commit = hex(40).parse(sha);
    for await (const listed of listFiles({ ...asked, repo, revision: commit })) {
      if (listed.type !== "file" || listed.path.includes("/")) continue;
      const file = remoteFile.parse(listed);
      files.set(file.name, file);
    }
    return { commit, files };
  } catch (error) {
    if (error instanceof UserError || error instanceof Transient) throw error;
    throw new UserError(`${hub.endpoint}: expected the hub's answers, found something else (${messageOf(error)}).`);
  }
}

async function fetchFiles(place: Place, files: ReadonlyMap<string, RemoteFile>): Promise<void> {
  const pick = (names: readonly string[]): RemoteFile[] => names.flatMap((name) => files.get(name) ?? []);
  const small = pick(smallFiles);
  let weights = pick(["model.safetensors"]);
  if (weights.length === 0 && files.has(SHARD_INDEX)) {
    const index = pick([SHARD_INDEX]);
    await fetchAll(place, index);
    const names = [...new Set(Object.values(readShardIndex(join(place.snapshot, SHARD_INDEX))))];
    const unknown = names.filter((name) => !files.has(name));
    if (unknown.length > 0)
      throw new UserError(`${place.repo}: ${SHARD_INDEX} names ${unknown.join(", ")}, which the repository lacks.`);
    weights = pick(names);
  }
  if (!files.has("config.json") && !files.has("adapter_config.json"))
    throw new UserError(`${place.repo}: the repository has no config.json. Choose a transformers model.`);
  if (weights.length === 0 && !files.has("adapter_model.safetensors"))
    throw new UserError(`${place.repo}: the repository has no safetensors weights. Choose a revision that has them.`);
  await fetchAll(place, [...small, ...weights]);
}

async function fetchAll(place: Place, files: readonly RemoteFile[]): Promise<void> {
  const wanted = files.filter(({ name, size }) => sizeOf(join(place.snapshot, name)) !== size);
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  const absent = wanted.reduce((sum, file) => sum + file.size - presentBytes(place, file), 0);
  const { bavail, bsize } = await statfs(place.blobs);
  if (absent > bavail * bsize)
    throw new UserError(
      `${place.blobs}: expected room for ${readable(absent)}, found ${readable(bavail * bsize)}. Free some, or set HF_HOME to a folder on a larger disk.`,
    );
  place.progress.total(bytes, bytes - absent);
  for (const file of wanted) {
    const blob = join(place.blobs, file.etag);
    if (sizeOf(blob) !== file.size) await fetchBlob(place, file, blob);
    const link = join(place.snapshot, file.name);
    await rm(link, { force: true });
    await symlink(relative(dirname(link), blob), link);
  }
}

const readable = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;

const sizeOf = (path: string): number | undefined => (existsSync(path) ? statSync(path).size : undefined);

const partialOf = (blob: string): string => `${blob}.incomplete`;

/** How much of a file is in blobs/, whole or in part. */
function presentBytes(place: Place, { etag, size }: RemoteFile): number {
  const blob = join(place.blobs, etag);
  return sizeOf(blob) === size ? size : Math.min(size, sizeOf(partialOf(blob)) ?? 0);
}

/** Brings one file, resuming after cuts. Kept bytes that turn out wrong are given up once. */
async function fetchBlob(place: Place, file: RemoteFile, blob: string): Promise<void> {
  let mayStartOver = true;
  for (let fruitless = 0; ;) {
    const before = sizeOf(partialOf(blob)) ?? 0;
    try {
      return await attempt(place, file, blob, mayStartOver);
    } catch (error) {
      if (!(error instanceof Transient)) throw error;
      const present = sizeOf(partialOf(blob)) ?? 0;
      if (present < before) mayStartOver = false;
      fruitless = present > before ? 0 : fruitless + 1;
      if (fruitless >= FRUITLESS_ATTEMPTS)
        throw new UserError(
          `${file.name}: ${error.message}; gave up after ${fruitless} attempts without progress. ${readable(present)} of ${readable(file.size)} are kept: run the same command again to go on.`,
        );
      place.progress.note(`${file.name}: ${error.message}; trying again`);
      await sleep(place.retryDelayMs * 2 ** (fruitless - 1));
    }
  }
}

async function attempt(place: Place, file: RemoteFile, blob: string, mayStartOver: boolean): Promise<void> {
  const partial = partialOf(blob);
  if ((sizeOf(partial) ?? 0) > file.size) await rm(partial);
  let position = sizeOf(partial) ?? 0;
  let resumed = position > 0;
  let hash = startHash(file);
  if (resumed) for await (const chunk of createReadStream(partial, { end: position - 1 })) hash.update(chunk as Buffer);

  // positions, no truncation: another process may be writing the same bytes
  const handle = await open(partial, constants.O_RDWR | constants.O_CREAT, 0o644);
  try {
    if (position < file.size) {
      const url = `${place.hub.endpoint}/${place.repo}/resolve/${place.commit}/${encodeURIComponent(file.name)}`;
      const response = await place.hub.fetch(url, resumed ? { headers: { range: `bytes=${position}-` } } : {});
      if (resumed && response.status !== 206) {
        // the server takes no ranges: from the start
        place.progress.add(-position);
        [position, resumed, hash] = [0, false, startHash(file)];
      }
      for await (const chunk of chunksOf(response)) {
        for (let done = 0; done < chunk.length;)
          done += (await handle.write(chunk, done, chunk.length - done, position + done)).bytesWritten;
        hash.update(chunk);
        position += chunk.length;
        place.progress.add(chunk.length);
        if (position > file.size) break;
      }
      if (position < file.size)
        throw new Transient(`the connection was cut after ${position.toLocaleString("en")} bytes`);
    }
    if (position > file.size || hash.digest("hex") !== file.etag) {
      await rm(partial, { force: true });
      place.progress.add(-position);
      if (resumed && mayStartOver) throw new Transient("the bytes kept from an earlier download do not fit its hash");
      const found = position > file.size ? "more bytes" : "another hash";
      throw new UserError(
        `${file.name}: expected ${file.size} bytes with the ${file.isLfs ? "sha256" : "git hash"} ${file.etag}, found ${found}. The file was removed. Run the command again; if that does not help, the server or a proxy changes the file.`,
      );
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  try {
    await rename(partial, blob);
  } catch (error) {
    // another process was faster
    if (sizeOf(blob) !== file.size) throw error;
  }
}

/** LFS: the content's sha256. Others: git's object name. */
const startHash = ({ isLfs, size }: RemoteFile) =>
  isLfs ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);

async function* chunksOf(response: Response): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of response.body ?? []) yield chunk as Uint8Array;
  } catch (error) {
    throw new Transient(`the connection was cut (${networkReason(error)})`);
  }
}

/** Runs what writes below `folder`; the system's refusals become messages. */
async function onDisk(folder: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (syscall === undefined) throw error;
    if (code === "ENOSPC" || code === "EDQUOT")
      throw new UserError(
        `${folder}: the disk is full (${code}). What arrived is kept: free some room and run the same command again, or set HF_HOME to a folder on a larger disk.`,
        { cause: error },
      );
    throw new UserError(`${folder}: cannot write the cache (${messageOf(error)}). Set HF_HOME to a folder of yours.`, {
      cause: error,
    });
  }
}
