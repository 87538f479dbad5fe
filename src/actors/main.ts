/**
 * Entry of an actor process:
 *   node dist/actors/main.js --config <run_dir>/config.json --index 0 --work <address>
 *   --weights <address> --threads 1
 * Weights come from the learner, never from disk. Exits 0 when told to stop, 1 with a message else.
 */
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { UserError } from "../errors.js";
import { endWithError, heedRequests } from "../protocol/child-process.js";
import { TOKEN_VARIABLE } from "../protocol/progress.js";
import { readRunConfig } from "../run/run-config.js";

const CLOSE_TIMEOUT_MS = 20_000;
const ORPHANED = "the launcher is gone";

const { values } = parseArgs({
  options: {
    config: { type: "string" },
    index: { type: "string", default: "0" },
    work: { type: "string" },
    weights: { type: "string" },
    threads: { type: "string", default: "1" },
  },
});

async function main(): Promise<string> {
  const asked = new Promise<string>((resolve) =>
    heedRequests({ stop: resolve, checkpoint: () => {}, orphaned: () => resolve(ORPHANED) }),
  );
  const { config: file, work, weights } = values;
  if (file === undefined || work === undefined || weights === undefined)
    throw new UserError("An actor needs --config FILE --work ADDRESS --weights ADDRESS; the launcher gives them.");
  const config = readRunConfig(file);
  const { startActor } = await import("./start.js");
  const actor = await startActor(config, {
    runDir: dirname(file),
    index: Number(values.index),
    threads: Number(values.threads),
    addresses: { work, weights },
    ...(process.send !== undefined && { silenceMs: Infinity }),
    token: process.env[TOKEN_VARIABLE] ?? "",
  });
  try {
    return await Promise.race([asked, actor.done]);
  } finally {
    // A session that never returns must not outlive the run.
    setTimeout(() => process.kill(process.pid, "SIGKILL"), CLOSE_TIMEOUT_MS).unref();
    await actor.close("stopping");
  }
}

main().then(
  (reason) => {
    if (reason === ORPHANED) console.error(`actor ${values.index}: ${reason}, stopping`);
    process.exit(0);
  },
  (error: unknown) => endWithError(`actor ${values.index}: `, error),
);
