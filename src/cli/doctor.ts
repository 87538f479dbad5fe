/** `doctor`: what this machine has, what is missing for CUDA, and what to do about each gap. */
import { type Command, Option } from "commander";
import { UserError } from "../errors.js";

export function addDoctor(program: Command): void {
  program
    .command("doctor")
    .description("what this machine has for learner and actors, and what is missing for CUDA")
    .option("--cuda", "exit 1 when CUDA cannot be used", false)
    .addOption(
      new Option(
        "--smoke [size]",
        "compute a little on the device too, compare it with the CPU and time it (default: full)",
      )
        .choices(["small", "full"])
        .preset("full"),
    )
    .option("--json", "everything that was found, as JSON", false)
    .action(doctor);
}

interface DoctorOptions {
  readonly cuda: boolean;
  readonly smoke?: "small" | "full";
  readonly json: boolean;
}

/**
 * @throws UserError when the CPU path does not work, or with `cuda` when CUDA cannot be used, or
 *   when what `smoke` computes is wrong
 */
export async function doctor({ cuda, smoke: size, json }: DoctorOptions): Promise<void> {
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
  if (size === undefined) return;
  const { smoke } = await import("../doctor/smoke.js");
  const device = cuda ? "cuda" : "cpu";
  process.stderr.write(`Trying ${device}; up to ten minutes where kernels are compiled.\n`);
  if (
    !(await smoke({ device, sizes: size === "small" ? ["small"] : undefined }, (line) =>
      process.stdout.write(`${line}\n`),
    ))
  )
    throw new UserError(`What ${device} computes is not right; the lines above say what, and what to do.`);
}
