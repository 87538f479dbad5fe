/**
 * What can be asked of a run directory. Options are parsed here; a command's module is loaded only
 * when it runs.
 */
import { Option } from "commander";
import type { Command } from "commander";
import type { PlanOptions } from "../commands/plan.js";
import { memorySize } from "./arguments.js";
import type { StatusOptions } from "../commands/status.js";

export function addRunCommands(program: Command): void {
  program
    .command("plan")
    .description("what a run would take in memory, by process and item, and whether it fits; allocates nothing")
    .usage("[--algo grpo|ppo] [--config FILE] [--key=value ...]")
    .addOption(new Option("--algo <name>", "algorithm (default: grpo)").choices(["grpo", "ppo"]))
    .option(
      "--config <file>",
      "YAML configuration, as for launch; may be repeated (default: configs/starter.yaml)",
      (file, files: string[] | undefined) => [...(files ?? []), file],
    )
    .option("--gpu-memory <size>", "of each GPU, such as 80GB (default: what the driver says)", memorySize)
    .option("--serial", "one process that also samples")
    .option("--json", "print the plan as JSON")
    .allowUnknownOption()
    .allowExcessArguments()
    .action(async (options: PlanOptions, command: Command) => {
      const { runPlan } = await import("../commands/plan.js");
      const flags = command.options.map((option) => option.long!.slice(2));
      runPlan(options, command.args, flags);
    });

  program
    .command("trajectories")
    .description("the completions of a run with rewards, advantages and weight versions, as JSONL")
    .argument("<run_dir>", "directory of a run")
    .action(async (runDir: string) => {
      const { trajectories } = await import("../commands/trajectories.js");
      await trajectories(runDir);
    });

  program
    .command("status")
    .description("where a run or a study is and whether it is well, from its files; exit code 1 when it is not")
    .argument("<dir>", "directory of a run or of a study")
    .option("--watch", "again and again until it ends", false)
    .option("--json", "print JSON", false)
    .action(async (dir: string, options: StatusOptions) => {
      const { runStatus } = await import("../commands/status.js");
      if (!(await runStatus(dir, options))) process.exitCode = 1;
    });
}
