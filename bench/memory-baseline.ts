/**
 * `node dist-bench/bench/memory-baseline.js learner|actor` prints the peak RSS in bytes of such a
 * process without model, tokenizer and work. It starts the second thread too.
 */
import { readFileSync } from "node:fs";
import { Worker, isMainThread, workerData } from "node:worker_threads";
import { fileURLToPath } from "node:url";

const dist = (path: string): string => new URL(`../../dist/${path}`, import.meta.url).href;
const role = isMainThread ? process.argv[2] : (workerData as string);
const modules: Record<string, readonly string[]> = {
  learner: ["learner/loop.js", "learner/rollouts/remote-source.js"],
  actor: ["actors/start.js"],
  "learner thread": ["learner/rollouts/dispatcher.js", "learner/rollouts/task-source.js"],
  "actor thread": ["engine/engine.js", "engine/adapter.js"],
};
for (const path of modules[role!]!) await import(dist(path));

if (isMainThread) {
  if (role === "learner") {
    const { startBackend } = (await import(
      dist("learner/backend/backend.js")
    )) as typeof import("../src/learner/backend/backend.js");
    await startBackend("tensorflow", 1);
  }
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: `${role} thread` });
  await new Promise((resolve) => worker.once("exit", resolve));
  const kilobytes = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"))![1];
  process.stdout.write(`${Number(kilobytes) * 1024}\n`);
}
