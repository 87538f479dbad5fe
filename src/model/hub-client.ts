/** Requests to the hub. The user's token is in no message and goes to the hub's address only. */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { parseEnv } from "node:util";
import { UserError, messageOf } from "../errors.js";
import type { Environment } from "./hub.js";

/** Something that may go well another time: no connection, a cut one, a busy server. */
export class Transient extends Error {}

export interface HubClient {
  /** Such as https://huggingface.co, without a slash at the end. */
  readonly endpoint: string;
  /** Like `fetch`, but throws UserError for a refusal, Transient when asking again may help. */
  readonly fetch: typeof fetch;
}

/** Offline mode, by the values that huggingface_hub takes for true. */
export const isOffline = (env: Environment): boolean => /^(1|on|yes|true)$/i.test(env["HF_HUB_OFFLINE"] ?? "");

/** @param repo named in messages @param cwd where `.env` is looked for */
export function hubClient(repo: string, env: Environment, cwd: string): HubClient {
  const endpoint = (env["HF_ENDPOINT"] || "https://huggingface.co").replace(/\/+$/, "");
  if (!URL.canParse(endpoint))
    throw new UserError(`HF_ENDPOINT: expected an address such as https://huggingface.co, found "${endpoint}".`);
  const { origin } = new URL(endpoint);
  const token = findToken(env, cwd);
  const hubFetch: typeof fetch = async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input);
    const headers = new Headers(init?.headers);
    // compressed bodies have no size to check, and no ranges
    headers.set("accept-encoding", "identity");
    // fetch itself drops the header when it is redirected to another origin
    if (token !== undefined && url.origin === origin) headers.set("authorization", `Bearer ${token.value}`);
    let response: Response;
    try {
      response = await fetch(url, { ...init, headers });
    } catch (error) {
      throw new Transient(`cannot reach ${url.origin} (${networkReason(error)})`);
    }
    if (!response.ok) {
      await response.body?.cancel();
      throw refusal(response, repo, endpoint, token);
    }
    return response;
  };
  return { endpoint, fetch: hubFetch };
}

type Token = NonNullable<ReturnType<typeof findToken>>;

/** The first of HF_TOKEN, ~/.huggingface_token, and HF_TOKEN in .env of the current directory. */
export function findToken(env: Environment, cwd: string): { value: string; source: string } | undefined {
  const textOf = (file: string): string => (existsSync(file) ? readFileSync(file, "utf8") : "");
  const homeFile = join(env["HOME"] ?? homedir(), ".huggingface_token");
  const envFile = join(cwd, ".env");
  const places: [source: string, read: () => string][] = [
    ["HF_TOKEN", () => env["HF_TOKEN"] ?? ""],
    [homeFile, () => textOf(homeFile)],
    [envFile, () => parseEnv(textOf(envFile))["HF_TOKEN"] ?? ""],
  ];
  for (const [source, read] of places) {
    const value = read().trim();
    // a line break inside would make fetch refuse the header, and show it
    if (!/^[\x21-\x7e]*$/.test(value))
      throw new UserError(`${source}: expected a hub token (one word), found something else. Write the token alone.`);
    if (value !== "") return { value, source };
  }
  return undefined;
}

/** Words an unsuccessful answer by its X-Error-Code (huggingface_hub's `hf_raise_for_status`). */
function refusal(response: Response, repo: string, endpoint: string, token: Token | undefined): Error {
  const { status } = response;
  const code = response.headers.get("x-error-code") ?? "";
  const give = "put a token with read access in HF_TOKEN, ~/.huggingface_token or .env";
  if (status === 408 || status === 429 || status >= 500)
    return new Transient(`${endpoint} answered ${status} (${status === 429 ? "too many requests" : "out of order"})`);
  if (code === "GatedRepo" || status === 403)
    return new UserError(
      `${repo}: the hub refuses access (${status}). ` +
        (token === undefined
          ? `Accept the model's terms at ${endpoint}/${repo} if it has any, and ${give}.`
          : `Accept the model's terms at ${endpoint}/${repo} with the account of the token from ${token.source}, or use a token that may read it.`),
    );
  if (status === 401)
    return new UserError(
      token === undefined
        ? `${repo}: the hub shows no such model to the public (401). Check the name; if the model is private, ${give}.`
        : `${repo}: the hub refuses the token from ${token.source}, or shows no such model to its account (401). Renew the token, or remove it for a public model, and check the name.`,
    );
  if (status === 404)
    return new UserError(
      code === "RevisionNotFound"
        ? `${repo}: the model has no such revision (404). Check --revision at ${endpoint}/${repo}.`
        : `${repo}: the hub knows no such model or file (404). Check the name at ${endpoint}.`,
    );
  return new UserError(`${repo}: ${endpoint} answered ${status}, expected the model's files. Try again later.`);
}

/** Why a fetch failed: the system's reason where there is one. */
export function networkReason(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  return messageOf(cause === undefined ? error : cause) || messageOf(error);
}
