/** A memory plan in words: the table of `plan`, and the refusal of a run that cannot fit. */
import { size } from "../../terminal/format.js";
import type { GpuTime } from "./gpu-time.js";
import { sumOf, type MemoryItem, type MemoryPlan, type ProcessPlan } from "./memory-plan.js";

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

/** The time model of each card in a line, marked as what it is. */
export const describeTime = (times: readonly GpuTime[]): string =>
  [
    "Time by a model (docs/cuda.md), nothing of which has been measured on a GPU:",
    ...times.map(
      (time) =>
        `  ${time.card}  ${time.rows} rows: ${time.stepMs.toFixed(0)} ms a step, ${Math.round(time.tokensPerSecond).toLocaleString("en-US")} tokens/s; ` +
        `iteration ${time.iterationSeconds.toFixed(0)} s (rollout ${time.rolloutSeconds.toFixed(0)}, learner ${time.learnerSeconds.toFixed(0)}); ` +
        `run ${time.hours.toFixed(1)} h`,
    ),
  ].join("\n");

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

const line = (name: string, bytes: number, note: string): string =>
  `  ${name.padEnd(52)}${size(bytes).padStart(10)}  ${note}`;

const LARGEST = 5;

/** Says why a run is not started: the memory that is exceeded and its largest items. */
export function refusal({ rooms, processes }: MemoryPlan): string {
  const over = rooms.filter(({ bytes, limit }) => limit !== null && bytes > limit);
  return [
    "This run would not fit into memory.",
    ...over.flatMap(({ name, bytes, limit }) => [
      `${name}: expected at most ${size(limit!)}, the plan needs ${size(bytes)}. Its largest items, and what changes them:`,
      ...processes
        .filter(({ gpu }) => name === "RAM" || name === `GPU ${gpu}`)
        .flatMap((one) => one.items.map((item) => ({ process: one.name, ...item })))
        .filter(({ where }) => where === (name === "RAM" ? "ram" : "gpu"))
        .sort((a, b) => b.bytes - a.bytes)
        .slice(0, LARGEST)
        .map((item) => line(`${item.process}: ${item.name}`, item.bytes, changedBy(item))),
    ]),
    "Change one of these keys, or choose a smaller model or a larger machine.",
  ].join("\n");
}

const changedBy = ({ key }: MemoryItem): string => (key === undefined ? "" : `--${key}`);
