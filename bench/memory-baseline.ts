/**
 * `node dist/bench/bench/memory-baseline.js learner|actor`: loads what such a process loads, model, tokenizer and work
 * excepted, and prints its peak RSS in bytes. The second thread of either process is there too.
 */
import { readFileSync } from "node:fs";
import { Worker, isMainThread, workerData } from "node:worker_threads";
import { fileURLToPath } from "node:url";

const dist = (path: string): string => new URL(`../../${path}`, import.meta.url).href;
const role = isMainThread ? process.argv[2] : (workerData as string);
const modules: Record<string, readonly string[]> = {
  learner: ["learner/loop.js", "learner/remote-source.js"],
  actor: ["actors/start.js"],
  "learner thread": ["learner/dispatcher.js", "learner/task-source.js"],
  "actor thread": ["actors/engine.js", "actors/adapter.js"],
};
for (const path of modules[role!]!) await import(dist(path));

if (isMainThread) {
  if (role === "learner") {
    const { startBackend } = (await import(
      dist("learner/backend.js")
    )) as typeof import("../src/learner/backend/backend.js");
    await startBackend("tensorflow", 1);
  }
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: `${role} thread` });
  await new Promise((resolve) => worker.once("exit", resolve));
  const kilobytes = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"))![1];
  process.stdout.write(`${Number(kilobytes) * 1024}\n`);
}
