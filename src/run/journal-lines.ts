/** The journal of a run as JSON lines. Reads only; the run may be writing meanwhile. */
import type { Writable } from "node:stream";
import { rewardWeights, totalReward } from "../tasks/rewards.js";
import { readRunConfig } from "./run-config.js";
import { type JournalRecord, batchFile, journalBatches, readBatchFile } from "./journal.js";
import { configFile, trajectoriesFolder } from "./paths.js";

/**
 * Writes one line per completion, in batch order: tokens, rewards and, once trained, advantages.
 * Groups that dynamic sampling replaced are listed too. `warn` is called for a torn tail.
 * @throws UserError when the folder holds no run
 */
export async function trajectories(
  runDir: string,
  out: Writable = process.stdout,
  warn: (line: string) => void = console.error,
): Promise<void> {
  for (const line of trajectoryLines(runDir, warn))
    if (!out.write(line)) await new Promise((resolve) => out.once("drain", resolve));
}

function* trajectoryLines(runDir: string, warn: (line: string) => void): Generator<string> {
  const weights = rewardWeights(readRunConfig(configFile(runDir)));
  const directory = trajectoriesFolder(runDir);
  for (const batch of journalBatches(directory)) {
    const file = batchFile(directory, batch);
    const { records, tornBytes } = readBatchFile(file);
    if (tornBytes > 0)
      warn(`${file}: the last ${tornBytes} bytes are no whole record (the run was killed while writing)`);
    const advantages = new Map(records.filter((r) => r.type === "advantages").map((r) => [r.taskId, r.advantages]));
    for (const record of records)
      if (record.type === "trajectory") yield* linesOf(batch, record, advantages.get(record.task.taskId), weights);
  }
}

function* linesOf(
  batch: number,
  { task, group }: Extract<JournalRecord, { type: "trajectory" }>,
  advantages: readonly Float32Array[] | undefined,
  weights: ReturnType<typeof rewardWeights>,
): Generator<string> {
  for (const [i, completion] of group.completions.entries()) {
    const perToken = advantages?.[i];
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
