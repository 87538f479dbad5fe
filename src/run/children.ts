/** What programs that run others share: signals passed on, and how a child and its log ended. */
import { readFileSync } from "node:fs";
import { constants } from "node:os";

/**
 * A signal that comes again within this time is the same request. SLURM signals every process of a
 * job, and npm and Apptainer, which are among them, pass on what they get.
 */
const SAME_SIGNAL_MS = 1000;
const TAIL_LINES = 20;

export interface Heeded {
  /** 128 + signal number once a signal came. */
  readonly exitCode: () => number | undefined;
  /** Stops listening. */
  readonly release: () => void;
}

/**
 * Listens for signals that ask to stop. The end of a program that forked this one counts as
 * SIGTERM.
 * @param first passes the request on
 * @param again is called for later requests
 */
export function heedSignals(first: (signal: NodeJS.Signals) => void, again: (signal: NodeJS.Signals) => void): Heeded {
  let exitCode: number | undefined;
  let firstAt = 0;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (exitCode !== undefined) {
      if (performance.now() - firstAt > SAME_SIGNAL_MS) again(signal);
      return;
    }
    firstAt = performance.now();
    exitCode = 128 + constants.signals[signal];
    first(signal);
  };
  const onOrphaned = (): void => onSignal("SIGTERM");
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, onSignal);
  process.on("disconnect", onOrphaned);
  return {
    exitCode: () => exitCode,
    release: () => {
      for (const signal of signals) process.off(signal, onSignal);
      process.off("disconnect", onOrphaned);
    },
  };
}

/** "was killed by SIGKILL", "exited with code 1". */
export function howItEnded(code: number | null, signal: NodeJS.Signals | null): string {
  return signal === null ? `exited with code ${code}` : `was killed by ${signal}`;
}

/** The last lines that were written to a log from byte `start` on. */
export function logTail(file: string, start: number): string {
  const lines = readFileSync(file).subarray(start).toString("utf8").trimEnd().split("\n");
  return lines
    .slice(-TAIL_LINES)
    .map((line) => (line === "" ? line : `  | ${line}`))
    .join("\n");
}
