/** Runs a study's step as a child in its own group: Ctrl-C comes here and is passed on. */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { howItEnded, logTail } from "../run/children.js";

/** @param script JavaScript file */
export function startChild(script: string, args: readonly string[], log: string) {
  mkdirSync(dirname(log), { recursive: true });
  const output = openSync(log, "a");
  const logStart = statSync(log).size;
  const child = spawn(process.execPath, [script, ...args], {
    detached: true,
    stdio: ["ignore", output, output, "ipc"],
  });
  closeSync(output);
  /** Resolves with null when it ended well, else with the reason and the end of its log. */
  const ended = new Promise<string | null>((resolve) => {
    child.once("error", (error) => resolve(error.message));
    child.once("close", (code, signal) => {
      if (code === 0) return resolve(null);
      resolve(`${howItEnded(code, signal)}. Its log, ${log}, ends:\n${logTail(log, logStart)}`);
    });
  });
  return { ended, signal: (signal: NodeJS.Signals) => child.kill(signal) };
}
