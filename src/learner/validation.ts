/** Accuracy on the held-out problems during a run. Knows no tasks and no engine. */
import type { RunConfig } from "../config/schema.js";
import { wilsonInterval } from "../math/statistics.js";
import type { ProgressEvent, Validation } from "../protocol/progress.js";
import type { RolloutSource } from "./rollouts/rollout-source.js";
import { unlessStopped } from "./stop.js";

export interface ValidationOptions {
  readonly source: RolloutSource;
  readonly send: (event: ProgressEvent) => void;
  readonly stop: AbortSignal;
}

/** `when` may be the iterations completed; null when the run was asked to stop meanwhile. */
export async function validate(
  run: RunConfig,
  iteration: number,
  when: "before" | "after" | number,
  { source, send, stop }: ValidationOptions,
): Promise<Validation | null> {
  const result: Validation = {};
  for (const mode of ["sampled", "greedy"] as const) {
    if (!run.eval[mode]) continue;
    const onDone = (done: number, total: number): void =>
      send({ type: "phase", name: `evaluating (${mode})`, done, total });
    const request = { iteration, mode, n: run.eval.num_problems, purpose: "eval" } as const;
    const answered = await unlessStopped(() => source.evaluate(request, onDone), stop);
    if (answered === null) return null;
    const { groups } = answered;
    const right = groups.map((group) => Number(group.completions[0]!.outcome === "correct"));
    const correct = right.reduce((sum, one) => sum + one, 0);
    result[mode] = {
      accuracy: correct / groups.length,
      ci95: wilsonInterval(correct, groups.length),
      n: groups.length,
      right: right.join(""),
    };
    send({ type: "validation", when, mode, ...result[mode] });
  }
  return result;
}
