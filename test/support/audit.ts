/** Whether a run lost or repeated anything: its journal against its metrics. */
import { readRunConfig } from "../../src/run/run-config.js";
import { rewardWeights, totalReward } from "../../src/tasks/rewards.js";
import { readJournal, readMetrics } from "./run.js";

/**
 * Checks that iterations have no gap, each trained batch is full, and no task counts twice.
 * The mean reward of a batch's completions must be the one in its metrics.
 * @returns completions that were trained on
 */
export function checkJournal(runDir: string): number {
  const run = readRunConfig(`${runDir}/config.json`);
  const metrics = readMetrics(runDir);
  const weights = rewardWeights(run);
  metrics.forEach((line, i) => {
    if (line["iteration"] !== i + 1) throw new Error(`expected iteration ${i + 1}, found ${line["iteration"]}`);
  });
  const rewards = new Map<number, number[]>();
  const seen = new Set<string>();
  for (const { batch, record } of readJournal(runDir)) {
    if (record.type !== "trajectory" || batch >= metrics.length) continue;
    const { taskId, completions } = record.group;
    if (seen.has(taskId)) throw new Error(`task ${taskId} is in the journal twice`);
    seen.add(taskId);
    const totals = completions.flatMap((c) => totalReward(c.rewards, weights) ?? []);
    rewards.set(batch, [...(rewards.get(batch) ?? []), ...totals]);
  }
  metrics.forEach((line, batch) => {
    const all = rewards.get(batch) ?? [];
    if (all.length !== run.generation_batch_size)
      throw new Error(`batch ${batch}: expected ${run.generation_batch_size} completions, found ${all.length}`);
    const mean = all.reduce((a, b) => a + b, 0) / all.length;
    if (Math.abs(mean - line["reward"]!) > 1e-9) throw new Error(`batch ${batch}: rewards do not match its metrics`);
  });
  return metrics.length * run.generation_batch_size;
}
