/**
 * `trajectories RUN_DIR`: the journal of a run as JSON lines, one per completion, in batch order.
 * Reads only; a run may be writing meanwhile.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Writable } from "node:stream";
import { z } from "zod";
import { runConfigSchema } from "../config/schema.js";
import { UserError, messageOf } from "../errors.js";
import type { JournalRecord } from "../run/journal.js";
import { batchFile, journalBatches, readBatchFile } from "../run/journal.js";
import { rewardWeights } from "../learner/rollouts/task-source.js";
import { totalReward } from "../tasks/rewards.js";

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
  const weights = rewardWeights(readConfig(runDir));
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

function readConfig(runDir: string) {
  const file = join(runDir, "config.json");
  if (!existsSync(file))
    throw new UserError(
      `${runDir}: expected a run directory with config.json, found none. Give the folder a run was written to.`,
    );
  try {
    return runConfigSchema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (error) {
    const why = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error);
    throw new UserError(`${file}: expected the configuration of a run, found something else: ${why}`);
  }
}
