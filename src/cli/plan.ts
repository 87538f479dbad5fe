/** `plan`: what a run would take in memory; allocates nothing, and refuses what does not fit. */
import type { Command } from "commander";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { algoOption, configOption, memorySize } from "./options.js";

interface PlanOptions {
  readonly algo?: RunConfig["algo"];
  readonly config?: readonly string[];
  /** Bytes of each GPU. */
  readonly gpuMemory?: number;
  readonly serial?: true;
  readonly json?: true;
}

export function addPlan(program: Command): void {
  program
    .command("plan")
    .description(
      "what a run would take in memory, by process and item, and whether it fits (on GPUs also about how long); allocates nothing",
    )
    .usage("[--algo grpo|ppo] [--config FILE] [--key=value ...]")
    .addOption(algoOption())
    .addOption(configOption())
    .option("--gpu-memory <size>", "of each GPU, such as 80GB (default: what the driver says)", memorySize)
    .option("--serial", "one process that also samples")
    .option("--json", "print the plan as JSON")
    .allowUnknownOption()
    .allowExcessArguments()
    .action(plan);
}

/** @throws UserError when the plan does not fit, with what to change */
async function plan(options: PlanOptions, { args: overrides, options: known }: Command): Promise<void> {
  const { loadConfig } = await import("../config/load.js");
  const { checkMemory } = await import("../launcher/plan/check-memory.js");
  const { describePlan, describeTime } = await import("../launcher/plan/memory-report.js");
  const flags = known.map((option) => option.long!.slice(2));
  const { config, notes } = loadConfig({ algo: options.algo, files: options.config ?? [], overrides, flags });
  for (const note of notes) process.stderr.write(`${note}\n`);
  const { plan, times, refused } = checkMemory(config, options.serial === true, options.gpuMemory);
  const json = { ...plan, fits: refused === null, modelled_times: times };
  const text = [describePlan(plan), ...(times.length === 0 ? [] : ["", describeTime(times)])].join("\n");
  console.log(options.json === true ? JSON.stringify(json, null, 2) : text);
  if (refused !== null) throw new UserError(refused);
}
