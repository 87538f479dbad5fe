/** Holds the memory plan of a run against this machine; the arithmetic is memory-plan.ts's. */
import { totalmem } from "node:os";
import type { RunConfig } from "../../config/schema.js";
import { gpuBytes, smiList } from "../../machine/gpus.js";
import { readModelConfig } from "../../model/config.js";
import { visibleGpus } from "../../machine/devices.js";
import { assignDevices } from "../assign-devices.js";
import { gpuTime } from "./gpu-time.js";
import { fits, planMemory, type MemoryLimits } from "./memory-plan.js";
import { refusal } from "./memory-report.js";

/**
 * `refused` is null when the plan fits, else why not and what to change. `times`, for learner and
 * actors on GPUs alone: how long the run would take, by a model.
 * @param gpuMemory bytes of each GPU; undefined = as the driver says
 * @throws UserError for a model folder whose config.json cannot be used
 */
export function checkMemory(config: RunConfig, serial: boolean, gpuMemory?: number) {
  const limits = limitsOf(config, serial, gpuMemory);
  const model = readModelConfig(config.model.path);
  const plan = planMemory(config, model, limits, serial);
  const { learner, actors } = limits.devices;
  const onGpu = learner !== null && !serial && actors.every((gpu) => gpu !== null);
  const times = onGpu ? (["A100", "H100"] as const).map((card) => gpuTime(config, model, card, config.actors.num)) : [];
  return { plan, times, refused: fits(plan) ? null : refusal(plan) };
}

/** Where the configuration asks for a GPU and none is there, one is added, to plan ahead. */
function limitsOf(config: RunConfig, serial: boolean, gpuMemory?: number): MemoryLimits {
  const found = visibleGpus(process.env, smiList());
  const wanted = gpuMemory !== undefined || config.actors.device === "cuda" || config.learner.device === "cuda";
  const gpus = found.length === 0 && wanted ? ["0"] : found;
  return { devices: assignDevices(gpus, config, serial), gpuBytes: gpuMemory ?? gpuBytes(), ramBytes: ramBytes() };
}

/** What this process may use: the machine's memory, or less in a container or job with a limit. */
function ramBytes(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}
