/** What programs that run others share: signals passed on, and how a child and its log ended. */
import { closeSync, openSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { isatty } from "node:tty";

/** A signal again within this time is the same request: SLURM, npm and Apptainer pass it on. */
const SAME_SIGNAL_MS = 1000;
const TAIL_LINES = 20;

const STOP = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;
/** True for a signal that asks to stop; SIGKILL asks nobody. */
export const isStopSignal = (signal: NodeJS.Signals): boolean => STOP.some((name) => name === signal);
const CHECKPOINT = ["SIGUSR1", "SIGUSR2"] as const;

/**
 * INT, TERM, HUP and QUIT ask to stop, USR1 and USR2 for a checkpoint; `again` hears later ones.
 * The end of a program that forked this one counts as TERM.
 */
export function heedSignals(
  first: (signal: NodeJS.Signals) => void,
  again: (signal: NodeJS.Signals) => void,
  checkpoint: (signal: NodeJS.Signals) => void = () => {},
) {
  let exitCode: number | undefined;
  let firstAt = 0;
  // asked now: a terminal that is gone is none any more
  const terminals = [0, 1, 2].filter(isatty);
  const onSignal = (signal: NodeJS.Signals): void => {
    if (signal === "SIGHUP") leaveTerminal(terminals.splice(0));
    if (exitCode !== undefined) {
      if (performance.now() - firstAt > SAME_SIGNAL_MS) again(signal);
      return;
    }
    firstAt = performance.now();
    exitCode = 128 + constants.signals[signal];
    first(signal);
  };
  const onOrphaned = (): void => onSignal("SIGTERM");
  for (const signal of STOP) process.on(signal, onSignal);
  for (const signal of CHECKPOINT) process.on(signal, checkpoint);
  process.on("disconnect", onOrphaned);
  return {
    /** 128 + signal number once a signal came. */
    exitCode: () => exitCode,
    /** Stops listening. */
    release: () => {
      for (const signal of STOP) process.off(signal, onSignal);
      for (const signal of CHECKPOINT) process.off(signal, checkpoint);
      process.off("disconnect", onOrphaned);
    },
  };
}

/** Reopens descriptors of a closed terminal on /dev/null: Node aborts if it cannot reset one. */
function leaveTerminal(terminals: readonly number[]): void {
  for (const fd of terminals) {
    try {
      closeSync(fd);
      openSync("/dev/null", "r+");
    } catch {
      // it was closed before
    }
  }
}

/** "was killed by SIGKILL", "exited with code 1". */
export function howItEnded(code: number | null, signal: NodeJS.Signals | null): string {
  return signal === null ? `exited with code ${code}` : `was killed by ${signal}`;
}

/** The last lines that were written to a log from byte `start` on, or since it was emptied. */
export function logTail(file: string, start: number): string {
  const bytes = readFileSync(file);
  const text = bytes.toString("utf8", start > bytes.length ? 0 : start).trimEnd();
  return text
    .split("\n")
    .slice(-TAIL_LINES)
    .map((line) => (line === "" ? line : `  | ${line}`))
    .join("\n");
}
