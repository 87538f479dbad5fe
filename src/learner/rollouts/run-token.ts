/** The secret of a run, in its actors' environment: it keeps others out of open (tcp) sockets. */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";

export const newToken = (): string => randomBytes(24).toString("base64url");

/** Compares in a time that tells nothing about the token. */
export function sameToken(found: string, expected: string): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(found), digest(expected));
}
