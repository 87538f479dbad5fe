/** Tries a run's own reward modules on a problem of its data, in a thread that may hang or die. */
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";
import type { RunConfig } from "../config/schema.js";
import { UserError, messageOf } from "../errors.js";
import { readModelConfig } from "../model/config.js";
import { loadTokenizer } from "../model/tokenizer.js";
import { loadDataset } from "../tasks/dataset.js";
import { loadRewards, scoreGroup } from "../tasks/rewards.js";

/** Time for the modules to load, beside the time of one call. */
const LOAD_MS = 60_000;

/**
 * Scores the right answer to the first training problem once with each reward function.
 * @throws UserError for a function that cannot be loaded, fails, ends its thread or does not return
 */
export async function tryRewards(run: RunConfig): Promise<void> {
  const limitMs = LOAD_MS + 1_000 * run.reward.timeout_seconds;
  const thread = new Worker(new URL(import.meta.url), { workerData: run });
  let timer: NodeJS.Timeout | undefined;
  const tried = new Promise<string | null>((resolve, reject) => {
    thread.once("message", resolve);
    thread.once("error", (error) =>
      error.name === "UserError" ? reject(new UserError(error.message)) : resolve(messageOf(error)),
    );
    thread.once("exit", (code) => resolve(`it ended its process with code ${code}`));
    timer = setTimeout(() => resolve(`it did not return within ${limitMs / 1_000} s`), limitMs);
  });
  let fault: string | null;
  try {
    fault = await tried;
  } finally {
    clearTimeout(timer);
    await thread.terminate();
  }
  if (fault !== null)
    throw new UserError(
      `reward.functions, tried on the first training problem before the run: ${fault}\n` +
        `Mend the module, or what it calls, and start again.`,
    );
}

/** What is wrong with the rewards; null = nothing. */
async function faultOf(run: RunConfig): Promise<string | null> {
  const rewards = await loadRewards(run.reward, run.max_completion_length);
  const problem = loadDataset(run.data.train, "train").problem(0);
  const tokenizer = loadTokenizer(run.model.path, readModelConfig(run.model.path));
  const completion = { ids: tokenizer.encode(problem.answer), finishReason: "length" } as const;
  const group = Array.from({ length: run.num_generations }, () => completion);
  const scored = await scoreGroup(tokenizer, rewards, problem, group, 1_000 * run.reward.timeout_seconds);
  return scored[0]!.rewardErrors[0] ?? null;
}

if (!isMainThread) parentPort!.postMessage(await faultOf(workerData as RunConfig));
