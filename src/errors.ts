/**
 * The one error class for anything a user can mend: bad config, bad files, a busy port.
 * Entry points print its message alone (the stack only under --debug) and exit non-zero;
 * every other error is a defect and keeps its stack.
 *
 * A message says what was expected, what was found and how to mend it.
 */
export class UserError extends Error {
  override name = "UserError";
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
