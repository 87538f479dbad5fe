/** How learner and actors behave as processes: under a launcher, or started by hand. */
import "../telemetry.js";
import { UserError, asUserError, messageOf } from "../errors.js";
import { LIFE_SIGN_MS, type LauncherMessage, type ProgressEvent } from "./progress.js";

/** Sends an event to the launcher; without one it is printed as JSON. */
export function tellLauncher(event: ProgressEvent): void {
  if (process.send === undefined) console.log(JSON.stringify(event));
  // the callback takes the error of a launcher that has just gone; "disconnect" follows
  else if (process.connected) process.send(event, undefined, undefined, () => {});
}

export interface Requests {
  readonly stop: (why: string) => void;
  /** Asked for a checkpoint; the run goes on. */
  readonly checkpoint: () => void;
  /** The launcher is gone. */
  readonly orphaned: () => void;
}

/**
 * Takes requests from the launcher, which alone decides what a signal means, else from signals.
 * SIGUSR1 must have a handler, or Node opens a debugger for everybody on the machine.
 */
export function heedRequests({ stop, checkpoint, orphaned }: Requests): void {
  const isChild = process.send !== undefined;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const)
    process.on(signal, () => isChild || stop(signal));
  for (const signal of ["SIGUSR1", "SIGUSR2"] as const) process.on(signal, () => isChild || checkpoint());
  if (!isChild) return;
  process.on("message", (message: LauncherMessage) =>
    message.type === "stop" ? stop("the launcher said stop") : checkpoint(),
  );
  // A launcher that went while modules were loaded has told nobody.
  if (process.connected) process.once("disconnect", orphaned);
  else orphaned();
  setInterval(() => tellLauncher({ type: "alive" }), LIFE_SIGN_MS).unref();
}

/** Tells the launcher why this process ends, and ends it with code 1. */
export function endWithError(prefix: string, thrown: unknown): void {
  const error = asUserError(thrown);
  const isUserError = error instanceof UserError;
  console.error(isUserError || !(error instanceof Error) ? messageOf(error) : error.stack);
  const event: ProgressEvent = { type: "error", message: `${prefix}${messageOf(error)}`, user: isUserError };
  if (process.send === undefined || !process.connected) process.exit(1);
  process.send(event, () => process.exit(1));
  // a launcher that takes no message must not keep a dead process
  setTimeout(() => process.exit(1), 2_000);
}
