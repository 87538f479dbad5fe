/**
 * Entry of the learner process:
 *   node dist/learner/main.js --config <run_dir>/config.json [--resume] [--serial] --threads 1
 * Exits 0 when the run is complete or was asked to stop, 1 with a message otherwise.
 */
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { UserError, messageOf } from "../errors.js";
import { endWithError, heedRequests, tellLauncher } from "../protocol/child-process.js";
import { removeLeftoversOf } from "../protocol/leftovers.js";
import { readRunConfig } from "../run/run-config.js";

const { values } = parseArgs({
  options: {
    config: { type: "string" },
    resume: { type: "boolean", default: false },
    serial: { type: "boolean", default: false },
    threads: { type: "string", default: "0" },
  },
});

const DIE_ATTEMPTS = 20;

/** At once: another run may own the directory now. An exit would abort a thread that receives. */
function die(): void {
  // its dispatcher thread may be writing weights there
  for (let attempt = 0; attempt < DIE_ATTEMPTS; attempt++) {
    try {
      removeLeftoversOf(process.pid);
      break;
    } catch (error) {
      if (attempt === DIE_ATTEMPTS - 1) console.error(`could not remove this process's folders: ${messageOf(error)}`);
    }
  }
  process.kill(process.pid, "SIGKILL");
}

async function main(): Promise<void> {
  if (values.config === undefined) throw new UserError("The learner needs --config FILE; the launcher gives it.");
  const run = readRunConfig(values.config);
  const stop = new AbortController();
  const requests = { checkpoint: false };
  heedRequests({ stop: () => stop.abort(), checkpoint: () => (requests.checkpoint = true), orphaned: die });
  const { runLearner } = await import("./loop.js");
  await runLearner(run, {
    runDir: dirname(values.config),
    resume: values.resume,
    serial: values.serial,
    threads: Number(values.threads),
    send: tellLauncher,
    stop: stop.signal,
    requests,
  });
}

main().then(
  () => process.exit(0),
  (error: unknown) => endWithError("", error),
);
