/** What a run will take, process by process, and whether it fits. Allocates nothing. */
import type { RunConfig } from "../../config/schema.js";
import type { ModelConfig } from "../../model/config.js";
import { actorItems } from "./actor-memory.js";
import type { DevicePlan } from "../assign-devices.js";
import { learnerItems } from "./learner-memory.js";

export interface MemoryItem {
  readonly name: string;
  readonly bytes: number;
  readonly where: "gpu" | "ram";
  /** The configuration key that changes it most. */
  readonly key?: string;
  /** In memory, but not in the process: a file in /dev/shm. */
  readonly shared?: true;
  /** There only while the process starts, or only once it works; unset: all the time. */
  readonly phase?: "start" | "work";
}

export interface ProcessPlan {
  /** "learner", "actor-0", … */
  readonly name: string;
  /** The GPU it computes on; null = the CPU. */
  readonly gpu: string | null;
  readonly items: readonly MemoryItem[];
}

/** A memory and what is asked of it. */
export interface Room {
  /** "RAM", or "GPU" with its name. */
  readonly name: string;
  readonly bytes: number;
  /** Null = not known, and not checked. */
  readonly limit: number | null;
}

export interface MemoryPlan {
  readonly processes: readonly ProcessPlan[];
  readonly rooms: readonly Room[];
}

export interface MemoryLimits {
  /** Which GPU each process sees (devices.ts). */
  readonly devices: DevicePlan;
  /** Bytes of each GPU; null = not known. */
  readonly gpuBytes: number | null;
  readonly ramBytes: number | null;
}

/** tokenizer.ts: JavaScript objects, for each token. Measured: 49,152 and 151,936 tokens. */
const TOKENIZER_BYTES = 900;
/** Node with the process's libraries loaded and no model: measured, see docs/memory.md. */
export const RUNTIME = "Node.js and libraries";
const RUNTIME_BYTES = { learner: 416e6, actor: 93e6 };
/** CUDA's context and loaded kernels. Assumed: nothing has been measured on a GPU. */
const CUDA_CONTEXT_BYTES = 0.6e9;

/** Prompts no longer than the context allows: longer ones are refused when they are read. */
function withinContext(run: RunConfig, model: ModelConfig): RunConfig {
  const room = Math.max(1, model.maxPositions - run.max_completion_length);
  return { ...run, data: { ...run.data, max_prompt_length: Math.min(run.data.max_prompt_length, room) } };
}

/** @param serial one process that also samples */
export function planMemory(asked: RunConfig, model: ModelConfig, machine: MemoryLimits, serial = false): MemoryPlan {
  const run = withinContext(asked, model);
  const process = (name: string, kind: "learner" | "actor", gpu: string | null): ProcessPlan => {
    const where = gpu === null ? "ram" : "gpu";
    const items: MemoryItem[] = [{ name: RUNTIME, bytes: RUNTIME_BYTES[kind], where: "ram" }];
    items.push({ name: "tokenizer", bytes: TOKENIZER_BYTES * model.vocabSize, where: "ram" });
    if (gpu !== null) items.push({ name: "CUDA context (assumed)", bytes: CUDA_CONTEXT_BYTES, where });
    if (kind === "learner") items.push(...learnerItems(run, model, where));
    if (kind === "actor" || serial) items.push(...actorItems(run, model, run.actors.device === "cuda" ? where : "ram"));
    return { name, gpu, items };
  };
  const processes = [
    process("learner", "learner", machine.devices.learner),
    ...(serial
      ? []
      : machine.devices.actors.slice(0, run.actors.num).map((gpu, index) => process(`actor-${index}`, "actor", gpu))),
  ];
  const gpus = [...new Set(processes.flatMap(({ gpu }) => gpu ?? []))];
  const rooms: Room[] = [
    ...gpus.map((gpu) => ({
      name: `GPU ${gpu}`,
      bytes: sumOf(
        processes.filter((one) => one.gpu === gpu),
        "gpu",
      ),
      limit: machine.gpuBytes,
    })),
    { name: "RAM", bytes: sumOf(processes, "ram"), limit: machine.ramBytes },
  ];
  return { processes, rooms };
}

/** The most that processes take at once: each of them either starts or works. */
export function sumOf(processes: readonly ProcessPlan[], where: MemoryItem["where"]): number {
  const inPhase = (items: readonly MemoryItem[], phase: MemoryItem["phase"]): number =>
    items.reduce((sum, item) => sum + (item.where === where && item.phase === phase ? item.bytes : 0), 0);
  return processes.reduce(
    (sum, { items }) => sum + inPhase(items, undefined) + Math.max(inPhase(items, "start"), inPhase(items, "work")),
    0,
  );
}

export const fits = ({ rooms }: MemoryPlan): boolean =>
  rooms.every(({ bytes, limit }) => limit === null || bytes <= limit);
