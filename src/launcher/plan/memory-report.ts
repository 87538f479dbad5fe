/**
 * A memory plan in words: the table of `plan`, and the refusal of a run that cannot fit. Pure text.
 */
import { sumOf, type Cure, type MemoryPlan, type ProcessPlan } from "./memory-plan.js";

/** A table for each process, and the sums by memory. */
export function describePlan(plan: MemoryPlan): string {
  return [
    ...plan.processes.flatMap((one) => [...describeProcess(one), ""]),
    ...plan.rooms.map(({ name, bytes, limit }) => {
      const of = limit === null ? "(its size is not known)" : `of ${size(limit)}`;
      return line(name, bytes, limit !== null && bytes > limit ? `${of}  TOO MUCH` : of);
    }),
  ].join("\n");
}

function describeProcess(one: ProcessPlan): string[] {
  const where = one.gpu === null ? "on the CPU" : `on GPU ${one.gpu}`;
  const total = (["gpu", "ram"] as const)
    .map((memory) => ({ memory, bytes: sumOf([one], memory) }))
    .filter(({ bytes }) => bytes > 0)
    .map(({ memory, bytes }) => line(`${one.name}: all`, bytes, memory === "gpu" ? "GPU" : "RAM"));
  return [
    `${one.name} (${where})`,
    ...one.items.map((item) => line(item.name, item.bytes, item.where === "gpu" ? "GPU" : "RAM")),
    ...total,
  ];
}

const size = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
const line = (name: string, bytes: number, note: string): string =>
  `  ${name.padEnd(52)}${size(bytes).padStart(10)}  ${note}`;

/** What to write on the command line so that the plan fits. */
function explainCures(ways: readonly Cure[]): string {
  if (ways.length === 0)
    return "No change of batch, rows, adapters or checkpointing is enough: choose a smaller model or a larger machine.";
  return `It would fit with ${ways.map(({ settings }) => settings.join(" ")).join(", or with ")}.`;
}

/** Why a run is not started: what is exceeded, by which items, and what to change. */
export function refusal(plan: MemoryPlan, ways: readonly Cure[]): string {
  const over = plan.rooms.filter(({ bytes, limit }) => limit !== null && bytes > limit);
  const lines = over.map(({ name, bytes, limit }) => {
    const where = name === "RAM" ? "ram" : "gpu";
    const largest = plan.processes
      .filter(({ gpu }) => where === "ram" || name === `GPU ${gpu}`)
      .flatMap((one) => one.items.filter((item) => item.where === where).map((item) => ({ of: one.name, ...item })))
      .sort((a, b) => b.bytes - a.bytes)
      .slice(0, 3)
      .map((item) => `${item.of}: ${item.name} ${size(item.bytes)}`);
    return `${name}: expected at most ${size(limit!)}, the plan needs ${size(bytes)} (${largest.join("; ")}).`;
  });
  return ["This run would not fit into memory.", ...lines, explainCures(ways)].join("\n");
}
