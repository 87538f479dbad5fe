/**
 * The one error class for anything a user can mend: bad config, bad files, a busy port.
 * Entry points print its message alone (the stack only under --debug) and exit non-zero;
 * every other error is a defect and keeps its stack.
 *
 * A message says what was expected, what was found and how to mend it.
 */
export class UserError extends Error {
  override name = "UserError";

  constructor(message: string, options?: ErrorOptions) {
    super(shortened(message), options);
  }
}

/** Keeps the start and the end of what is long: a quoted file may hold anything. */
function shortened(message: string): string {
  const lines = message
    .split("\n")
    .map((line) => (line.length > 1_500 ? `${line.slice(0, 1_000)} … ${line.slice(-400)}` : line));
  if (lines.length > 100) lines.splice(50, lines.length - 90, `… (${lines.length - 90} lines more)`);
  return lines.join("\n");
}

/** Errors of the system that a user can mend, in words. EDQUOT has no name in Node 20. */
const SYSTEM: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full: free some room",
  EDQUOT: "the disk quota is exceeded: free some room",
  "-122": "the disk quota is exceeded: free some room",
  EFBIG: "the file is larger than allowed (ulimit -f): raise the limit",
  EROFS: "the file system is read-only: choose another folder",
  EACCES: "it may not be read or written: choose another folder, or mend its permissions",
  EMFILE: "too many files are open (ulimit -n): raise the limit",
};

/**
 * An error of the system as a UserError, where it is one that a user can mend; else as it is.
 * @param where for errors that name no path themselves
 */
export function asUserError(error: unknown, where?: string): unknown {
  if (!(error instanceof Error) || error instanceof UserError) return error;
  const { code, errno, path } = error as NodeJS.ErrnoException;
  const words = SYSTEM[code ?? ""] ?? SYSTEM[String(errno ?? "")];
  return words === undefined ? error : new UserError(`${path ?? where ?? error.message}: ${words}.`, { cause: error });
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
