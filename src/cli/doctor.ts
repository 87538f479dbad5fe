/** `doctor`: what this machine has, what is missing for CUDA, and what to do about each gap. */
import type { Command } from "commander";
import { UserError } from "../errors.js";

export function addDoctor(program: Command): void {
  program
    .command("doctor")
    .description("what this machine has for learner and actors, and what is missing for CUDA")
    .option("--cuda", "exit 1 when CUDA cannot be used", false)
    .option("--json", "everything that was found, as JSON", false)
    .action(doctor);
}

/** @throws UserError when the CPU path does not work, or with `cuda` when CUDA cannot be used */
export async function doctor({ cuda, json }: { readonly cuda: boolean; readonly json: boolean }): Promise<void> {
  const { inspectMachine } = await import("../doctor/inspect.js");
  const { cpuWorks, cudaGaps } = await import("../doctor/gaps.js");
  const { describeMachine } = await import("../doctor/describe.js");
  const machine = await inspectMachine();
  const gaps = cudaGaps(machine);
  const ok = { cpu: cpuWorks(machine), cuda: gaps.length === 0 };
  const report = json ? JSON.stringify({ ...machine, gaps, ok }, null, 2) : describeMachine(machine, gaps);
  process.stdout.write(`${report}\n`);
  if (cuda ? !ok.cuda : !ok.cpu)
    throw new UserError(`${cuda ? "CUDA" : "The CPU path"} cannot be used; the report says what is missing.`);
}
