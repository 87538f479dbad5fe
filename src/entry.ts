/** What the entry points share: whether the user started a file, and how a failure is reported. */
import "./telemetry.js";
import { readFileSync, realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { UserError, asUserError, messageOf } from "./errors.js";

// Without a handler of ours SIGUSR1 opens Node's debugger to everybody on the machine.
process.on("SIGUSR1", () => {});

export function packageVersion(): string {
  return (JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string }).version;
}

/** True when the module with this URL is the script Node was started with, also by a link. */
export function isEntry(url: string): boolean {
  const script = process.argv[1];
  return script !== undefined && realpathSync(script) === fileURLToPath(url);
}

/**
 * Turns what an entry point throws into an exit code. A UserError shows its message alone (stack
 * under `--debug`); anything else is a defect and shows its stack.
 */
export async function guarded(main: () => Promise<number>, debug: boolean): Promise<number> {
  // A reader that is gone is no failure: a closed terminal, `| head`. The run goes on.
  for (const stream of [process.stdout, process.stderr])
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (!["EPIPE", "EIO", "EBADF"].includes(error.code ?? "")) throw error;
    });
  try {
    return await main();
  } catch (thrown) {
    const error = asUserError(thrown);
    const plain = error instanceof UserError && !debug;
    process.stderr.write(
      `${plain ? `error: ${error.message}` : error instanceof Error ? error.stack : messageOf(error)}\n`,
    );
    return 1;
  }
}
