/** `doctor`: what this machine has, what is missing for CUDA, and what to do about each gap. */
import { UserError } from "../errors.js";
import { describeMachine } from "../doctor/describe.js";
import { cpuWorks, cudaGaps } from "../doctor/gaps.js";
import { inspectMachine } from "../doctor/inspect.js";

export interface DoctorOptions {
  readonly cuda: boolean;
  readonly json: boolean;
}

/** @throws UserError when the CPU path does not work, or with `cuda` when CUDA cannot be used */
export async function doctor({ cuda, json }: DoctorOptions): Promise<void> {
  const machine = await inspectMachine();
  const gaps = cudaGaps(machine);
  const ok = { cpu: cpuWorks(machine), cuda: gaps.length === 0 };
  process.stdout.write(
    json ? `${JSON.stringify({ ...machine, gaps, ok }, null, 2)}\n` : `${describeMachine(machine, gaps)}\n`,
  );
  if (cuda ? !ok.cuda : !ok.cpu)
    throw new UserError(`${cuda ? "CUDA" : "The CPU path"} cannot be used; the report says what is missing.`);
}
