/**
 * The Hugging Face cache, as Python's `huggingface_hub` writes it; opens no connection.
 *   <cache>/models--<owner>--<name>/refs/<revision>            the commit of a branch or tag
 *   <cache>/models--<owner>--<name>/snapshots/<commit>/<file>  links into blobs/
 *   <cache>/models--<owner>--<name>/blobs/<etag>               contents, each once
 */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { UserError } from "../errors.js";
import { SHARD_INDEX, readShardIndex } from "./safetensors/read.js";

/** Environment variables, HOME among them. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** `owner/name`, as the hub names models. */
export const isHubId = (text: string): boolean => /^[A-Za-z0-9][\w.-]*\/[\w.-]*\w$/.test(text);

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, hub/ in HF_HOME or ~/.cache/huggingface. */
export function hubCache(env: Environment = process.env): string {
  const home = env["HOME"] ?? homedir();
  const hfHome = env["HF_HOME"] ?? join(env["XDG_CACHE_HOME"] ?? join(home, ".cache"), "huggingface");
  const path = env["HF_HUB_CACHE"] ?? env["HUGGINGFACE_HUB_CACHE"] ?? join(hfHome, "hub");
  return resolve(path.replace(/^~(?=\/|$)/, home));
}

export const repoCache = (repo: string, env?: Environment): string =>
  join(hubCache(env), `models--${repo.replace("/", "--")}`);

/** A snapshot's folder, complete or not. @param revision branch, tag or commit */
export function findSnapshot(repo: string, revision: string, env?: Environment): string | undefined {
  const folder = repoCache(repo, env);
  const ref = join(folder, "refs", revision);
  const commit = isCommit(revision) ? revision : existsSync(ref) ? readFileSync(ref, "utf8").trim() : undefined;
  if (commit === undefined || !isCommit(commit)) return undefined;
  const snapshot = join(folder, "snapshots", commit);
  return existsSync(snapshot) ? snapshot : undefined;
}

/** The model and commit that a snapshot's folder is of; undefined for any other folder. */
export function originOf(folder: string): { readonly repo: string; readonly commit: string } | undefined {
  const found = /models--([^/]+)--([^/]+)\/snapshots\/([0-9a-f]{40})\/?$/.exec(folder);
  return found === null ? undefined : { repo: `${found[1]}/${found[2]}`, commit: found[3]! };
}

/** What a model folder (or a PEFT adapter's) lacks of the files it cannot be loaded without. */
export function missingFiles(folder: string): string[] {
  const has = (name: string): boolean => existsSync(join(folder, name));
  if (has("adapter_config.json")) return ["adapter_model.safetensors"].filter((name) => !has(name));
  const weights = has("model.safetensors")
    ? []
    : has(SHARD_INDEX)
      ? Object.values(readShardIndex(join(folder, SHARD_INDEX)))
      : ["model.safetensors"];
  const names = new Set(["config.json", "tokenizer.json", "tokenizer_config.json", ...weights]);
  return [...names].filter((name) => !has(name));
}

/**
 * The folder to read a model from: `local` (default `spec`) if it exists, else the hub snapshot.
 * Else the name unchanged, for readModelConfig to refuse. @throws UserError for an incomplete
 * snapshot
 */
export function resolveModelFolder(spec: string, local = spec, env?: Environment): string {
  if (existsSync(local) || !isHubId(spec)) return local;
  const snapshot = findSnapshot(spec, "main", env);
  if (snapshot === undefined) return spec;
  const missing = missingFiles(snapshot);
  if (missing.length > 0)
    throw new UserError(
      `${spec}: expected the whole model in the cache, found ${snapshot} without ${missing.join(", ")}. Run: node dist/cli.js download-model ${spec}`,
    );
  return snapshot;
}
