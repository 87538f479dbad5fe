/** Who may ask (bearer token or loopback), and how a refusal is worded: OpenAI's error body. */
import { createHash, timingSafeEqual } from "node:crypto";
import type { Context, MiddlewareHandler } from "hono";
import { bearerAuth } from "hono/bearer-auth";
import { messageOf } from "../errors.js";
import { isLoopback } from "../protocol/address.js";
import { RequestError } from "./requests.js";

/** Without a key, requests must name a loopback host: no web page reaches it by DNS rebinding. */
export const loopbackOnly: MiddlewareHandler = (c, next) => {
  const { hostname } = new URL(c.req.url);
  if (isLoopback(hostname)) return next();
  throw new RequestError(
    403,
    `the host "${hostname}" is not this server's: use localhost, or start it with an API key`,
  );
};

/** Compared in constant time. */
export function keyRequired(apiKey: string): MiddlewareHandler {
  const expected = sha256(apiKey);
  const message = errorBody(401, "expected the header Authorization: Bearer <API key>");
  return bearerAuth({
    verifyToken: (token) => timingSafeEqual(sha256(token), expected),
    noAuthenticationHeader: { message },
    invalidAuthenticationHeader: { message },
    invalidToken: { message: errorBody(401, "this API key is not the server's") },
  });
}

const sha256 = (text: string): Buffer => createHash("sha256").update(text).digest();

/** @throws RequestError unless the body is JSON and says so */
export async function readBody(c: Context): Promise<unknown> {
  // A browser's page must ask before it sends this type to another origin; --cors alone answers.
  if (!/^application\/json\b/i.test(c.req.header("Content-Type") ?? ""))
    throw new RequestError(415, "expected Content-Type: application/json");
  try {
    return await c.req.json();
  } catch (error) {
    if (error instanceof RequestError) throw error;
    throw new RequestError(400, `expected a JSON body (${messageOf(error)})`);
  }
}

export function errorBody(status: number, message: string, param: string | null = null) {
  const types: Record<number, string> = { 401: "authentication_error", 429: "rate_limit_error" };
  const codes: Record<number, string> = {
    401: "invalid_api_key",
    404: param === "model" ? "model_not_found" : "not_found",
  };
  const type = types[status] ?? (status >= 500 ? "server_error" : "invalid_request_error");
  return { error: { message, type, param, code: codes[status] ?? null } };
}
