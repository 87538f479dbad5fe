/**
 * Entry of the learner process:
 *   node dist/learner/main.js --config <run_dir>/config.json [--resume] [--serial] --threads 1
 * Exits 0 when the run is complete or was asked to stop, 1 with a message otherwise.
 */
import { readFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { runConfigSchema } from "../config/schema.js";
import { UserError, messageOf } from "../errors.js";
import type { LauncherMessage, ProgressEvent } from "../protocol/progress.js";

const { values } = parseArgs({
  options: {
    config: { type: "string" },
    resume: { type: "boolean", default: false },
    serial: { type: "boolean", default: false },
    threads: { type: "string", default: "0" },
  },
});

async function main(): Promise<void> {
  if (values.config === undefined) throw new UserError("The learner needs --config FILE; the launcher gives it.");
  const config = runConfigSchema.parse(JSON.parse(readFileSync(values.config, "utf8")));
  const stop = new AbortController();
  // Signals reach every process of a terminal or job; under a launcher, it decides what they mean.
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.on(signal, () => process.send === undefined && stop.abort());
  process.on("message", (message: LauncherMessage) => message.type === "stop" && stop.abort());
  process.once("disconnect", () => process.exit(1));
  const { runLearner } = await import("./loop.js");
  await runLearner(config, {
    runDir: dirname(values.config),
    resume: values.resume,
    serial: values.serial,
    threads: Number(values.threads),
    send,
    stop: stop.signal,
  });
}

function send(event: ProgressEvent): void {
  if (process.send === undefined) console.log(JSON.stringify(event));
  else if (process.connected) process.send(event);
}

function sent(event: ProgressEvent): Promise<void> {
  if (process.send === undefined || !process.connected) return Promise.resolve(send(event));
  return new Promise((resolve) => process.send!(event, () => resolve()));
}

main().then(
  () => process.exit(0),
  async (error: unknown) => {
    console.error(error instanceof Error ? error.stack : error);
    await sent({ type: "error", message: messageOf(error), user: error instanceof UserError });
    process.exit(1);
  },
);
