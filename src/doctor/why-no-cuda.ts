/** Whether the sides that ask for CUDA can use it on this machine. */
import { describeMachine } from "./describe.js";
import { type CudaGap, cudaGaps } from "./gaps.js";
import { inspectMachine } from "./inspect.js";

/** @returns null when they can, else the first thing missing and doctor's report */
export async function whyNoCuda(
  sides: readonly Exclude<CudaGap["side"], "both">[],
): Promise<{ readonly missing: string; readonly report: string } | null> {
  const machine = await inspectMachine();
  const gaps = cudaGaps(machine).filter(({ side }) => side === "both" || sides.includes(side));
  const [first] = gaps;
  return first === undefined ? null : { missing: first.missing, report: describeMachine(machine, gaps) };
}
