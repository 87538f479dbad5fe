/**
 * The journal of a run as JSON lines, one per completion, in batch order. Reads only; a run may be
 * writing meanwhile.
 */
import { join } from "node:path";
import type { Writable } from "node:stream";
import { readRunConfig } from "../../config/load.js";
import { type JournalRecord, batchFile, journalBatches, readBatchFile } from "../../run/journal.js";
import { configFile } from "../../run/run-dir.js";
import { rewardWeights } from "./task-source.js";
import { totalReward } from "../../tasks/rewards.js";

/**
 * Writes one line per completion: prompt_ids, completion_ids, behaviour_logprobs, reward (weighted
 * total), rewards, advantages (per token; null until the batch was trained on), version,
 * finish_reason, outcome, actor, task_id, completion, batch. Groups that dynamic sampling replaced
 * are listed too; they never get advantages.
 * @param warn told about torn tails, which a killed run leaves
 * @throws UserError when the folder holds no run
 */
export async function trajectories(
  runDir: string,
  out: Writable = process.stdout,
  warn: (line: string) => void = console.error,
): Promise<void> {
  const weights = rewardWeights(readRunConfig(configFile(runDir)));
  const directory = join(runDir, "trajectories");
  for (const batch of journalBatches(directory)) {
    const file = batchFile(directory, batch);
    const { records, tornBytes } = readBatchFile(file);
    if (tornBytes > 0)
      warn(`${file}: the last ${tornBytes} bytes are no whole record (the run was killed while writing)`);
    const advantages = new Map(records.filter((r) => r.type === "advantages").map((r) => [r.taskId, r.advantages]));
    for (const line of linesOf(batch, records, advantages, weights))
      if (!out.write(line)) await new Promise((resolve) => out.once("drain", resolve));
  }
}

function* linesOf(
  batch: number,
  records: readonly JournalRecord[],
  advantages: ReadonlyMap<string, readonly Float32Array[]>,
  weights: ReturnType<typeof rewardWeights>,
): Generator<string> {
  for (const record of records) {
    if (record.type !== "trajectory") continue;
    const { task, group } = record;
    for (const [i, completion] of group.completions.entries()) {
      const perToken = advantages.get(task.taskId)?.[i];
      const line = {
        batch,
        task_id: task.taskId,
        completion: i,
        actor: group.actorId,
        prompt_ids: [...task.promptIds],
        completion_ids: [...completion.ids],
        behaviour_logprobs: [...completion.behaviourLogprobs],
        reward: totalReward(completion.rewards, weights),
        rewards: completion.rewards,
        advantages: perToken === undefined ? null : [...perToken],
        version: completion.version,
        finish_reason: completion.finishReason,
        outcome: completion.outcome,
      };
      yield `${JSON.stringify(line)}\n`;
    }
  }
}
