/**
 * An actor that computes nothing: it answers every task at once with random tokens, so that the
 * learner's side alone is measured. transport.ts starts it as `node feeder.js <work address>
 * <tokens per completion> <rows>`.
 */
import { decode, encode, groupToWire, taskFromWire } from "../src/protocol/codec.js";
import type { TrajectoryGroup } from "../src/protocol/messages.js";
import { HEARTBEAT_MS, Writer, connectDealer } from "../src/protocol/sockets.js";
import { fromLearner } from "../src/protocol/wire-schemas.js";

const [work, token, tokens, rows] = process.argv.slice(2);
const capacity = Number(rows);
const socket = connectDealer(work!, "feeder");
const writer = new Writer(socket);
let version = { iteration: -1, sha256: "" };
let steps = 0;

const ids = Int32Array.from({ length: Number(tokens) }, (_, t) => (t * 7_919) % 500);
const logprobs = Float32Array.from(ids, (id) => -id / 1_000);

process.on("disconnect", () => process.exit(0));
await writer.send(encode({ type: "hello", token, pid: process.pid, index: 0, capacity }));
setInterval(() => {
  const idle = { held: [], busyMs: 0, idleMs: 0, counters: {}, version: null };
  void writer.send(encode({ type: "heartbeat", capacity, steps: ++steps, ...idle }));
}, HEARTBEAT_MS);

for await (const frames of socket) {
  const { header, tensors } = decode(fromLearner, frames);
  if (header.type === "heartbeat" && header.weights !== null)
    version = { iteration: header.weights.iteration, sha256: header.weights.sha256 };
  if (header.type === "refused") throw new Error(header.reason);
  if (header.type !== "task") continue;
  const task = taskFromWire(header, tensors);
  const group: TrajectoryGroup = {
    taskId: task.taskId,
    actorId: "feeder",
    completions: Array.from({ length: task.groupSize }, (_, c) => ({
      ids: ids.map((id) => (id + c) % 500),
      behaviourLogprobs: logprobs,
      finishReason: "length",
      version,
      rewards: { correctness: c % 2 },
      rewardErrors: [],
      outcome: c % 2 === 1 ? "correct" : "wrong",
    })),
    timing: { queuedMs: 0, prefillMs: 0, decodeMs: 0 },
  };
  const wire = groupToWire(group);
  await writer.send(encode(wire.header, wire.tensors));
}
