/**
 * What a run will take, process by process, before anything is allocated: from the configuration
 * and the model's config.json alone. Whether it fits, and which single setting would make it fit.
 * Pure arithmetic: asks no machine. The items are learner-memory.ts's and actor-memory.ts's;
 * docs/memory.md has them beside what processes really took.
 */
import type { RunConfig } from "../../config/schema.js";
import type { ModelConfig } from "../../model/config.js";
import { actorItems } from "./actor-memory.js";
import type { DevicePlan } from "../assign-devices.js";
import { learnerItems, microbatchShape } from "./learner-memory.js";

export interface MemoryItem {
  readonly name: string;
  readonly bytes: number;
  readonly where: "gpu" | "ram";
  /** The configuration key that changes it most. */
  readonly key?: string;
  /** In memory, but not in the process: a file in /dev/shm. */
  readonly shared?: true;
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

export interface Machine {
  /** Which GPU each process sees (devices.ts). */
  readonly devices: DevicePlan;
  /** Of each GPU. */
  readonly gpuBytes: number | null;
  readonly ramBytes: number | null;
}

/**
 * tokenizer.ts: vocabulary and merges as JavaScript objects, for each token. Measured: 49,152 and
 * 151,936 tokens.
 */
const TOKENIZER_BYTES = 900;
/** Node with the process's libraries loaded and no model: measured, see docs/memory.md. */
export const RUNTIME = "Node.js and libraries";
const RUNTIME_BYTES = { learner: 416e6, actor: 93e6 };
/** CUDA's context and loaded kernels. Assumed: nothing has been measured on a GPU. */
const CUDA_CONTEXT_BYTES = 0.6e9;

/**
 * The run with prompts no longer than the model's context allows: longer ones are refused by name
 * when they are read.
 */
function withinContext(run: RunConfig, model: ModelConfig): RunConfig {
  const room = Math.max(1, model.maxPositions - run.max_completion_length);
  return { ...run, data: { ...run.data, max_prompt_length: Math.min(run.data.max_prompt_length, room) } };
}

/** @param serial one process that also samples */
export function planMemory(asked: RunConfig, model: ModelConfig, machine: Machine, serial = false): MemoryPlan {
  const run = withinContext(asked, model);
  const process = (name: string, kind: "learner" | "actor", gpu: string | null): ProcessPlan => {
    const where = gpu === null ? "ram" : "gpu";
    const items: MemoryItem[] = [{ name: RUNTIME, bytes: RUNTIME_BYTES[kind], where: "ram" }];
    // learner: task-source.ts opens it in both threads
    const tokenizers = kind === "learner" ? 2 : 1;
    items.push({ name: "tokenizer", bytes: tokenizers * TOKENIZER_BYTES * model.vocabSize, where: "ram" });
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

/** Bytes of processes in one kind of memory. */
export function sumOf(processes: readonly ProcessPlan[], where: MemoryItem["where"]): number {
  return processes
    .flatMap(({ items }) => items)
    .reduce((sum, item) => sum + (item.where === where ? item.bytes : 0), 0);
}

/** True when nothing known is exceeded. */
export function fits({ rooms }: MemoryPlan): boolean {
  return rooms.every(({ bytes, limit }) => limit === null || bytes <= limit);
}

/** One setting to change, as it is written on the command line. */
export interface Cure {
  /** `--key=value`, one or several. */
  readonly settings: readonly string[];
}

/**
 * Settings that would make a plan fit: every single one that is enough (with the largest value that
 * fits); if none is, the first of them together; empty when even those are not enough.
 */
export function cures(run: RunConfig, model: ModelConfig, machine: Machine, serial = false): Cure[] {
  const enough = (changed: RunConfig): boolean => fits(planMemory(changed, model, machine, serial));
  const single: Cure[] = [];
  const together: { settings: string[]; run: RunConfig } = { settings: [], run };
  for (const { key, values, change } of changes(run)) {
    const fitting = values.find((value) => enough(change(run, value)));
    if (fitting !== undefined) single.push({ settings: [`--${key}=${fitting}`] });
    const last = values.at(-1);
    if (last === undefined || enough(together.run)) continue;
    const value = values.find((one) => enough(change(together.run, one))) ?? last;
    together.settings.push(`--${key}=${value}`);
    together.run = change(together.run, value);
  }
  if (single.length > 0) return single;
  return enough(together.run) ? [{ settings: together.settings }] : [];
}

interface Change {
  readonly key: string;
  /** From the mildest to the strongest. */
  readonly values: readonly (number | string | boolean)[];
  readonly change: (run: RunConfig, value: number | string | boolean) => RunConfig;
}

/** What may be changed, in the order of how little it costs. */
function changes(run: RunConfig): Change[] {
  const group = run.data.max_prompt_length + run.num_generations * (run.max_completion_length - 1);
  const one = microbatchShape(run).tokens;
  return [
    {
      key: "tokens_per_microbatch",
      values: halvings(Math.min(run.tokens_per_microbatch, one), group),
      change: (old, value) => ({ ...old, tokens_per_microbatch: Number(value) }),
    },
    {
      key: "actors.max_rows",
      values: halvings(run.actors.max_rows, run.num_generations),
      change: (old, value) => ({ ...old, actors: { ...old.actors, max_rows: Number(value) } }),
    },
    {
      key: "model.gradient_checkpointing",
      values: run.model.gradient_checkpointing ? [] : [true],
      change: (old) => ({ ...old, model: { ...old.model, gradient_checkpointing: true } }),
    },
    {
      key: "actors.dtype",
      values: run.actors.device === "cuda" && run.actors.dtype === "float32" ? ["float16"] : [],
      change: (old) => ({ ...old, actors: { ...old.actors, dtype: "float16" } }),
    },
    {
      key: "lora.enabled",
      values: run.lora.enabled ? [] : [true],
      change: (old) => ({ ...old, lora: { ...old.lora, enabled: true } }),
    },
    {
      key: "actors.num",
      values: halvings(run.actors.num, 1),
      change: (old, value) => ({ ...old, actors: { ...old.actors, num: Number(value) } }),
    },
    {
      key: "max_completion_length",
      values: halvings(run.max_completion_length, 64),
      change: (old, value) => ({ ...old, max_completion_length: Number(value) }),
    },
  ];
}

/** Half, a quarter, … down to `least`; empty when `from` is no more than that. */
function halvings(from: number, least: number): number[] {
  const values: number[] = [];
  for (let value = Math.floor(from / 2); value > least; value = Math.floor(value / 2)) values.push(value);
  return from > least ? [...values, least] : [];
}
