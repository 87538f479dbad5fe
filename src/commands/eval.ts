/** `eval`: sampled and greedy accuracy of a model folder on held-out problems; the reward code of training scores. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { SingleBar } from "cli-progress";
import { generateAll, openModel } from "../actors/local.js";
import { UserError } from "../errors.js";
import { sha256OfList, trainSeedOf } from "../eval/result-file.js";
import { wilsonInterval } from "../eval/statistics.js";
import type { ChatMessage } from "../model/tokenizer.js";
import { taskSeed } from "../protocol/seeds.js";
import { loadDataset } from "../tasks/dataset.js";
import { loadRewards } from "../tasks/rewards.js";
import { makeScorer } from "../tasks/scorer.js";

export interface EvalOptions {
  readonly model: string;
  /** "starter", or a JSONL file with question/answer. */
  readonly data: string;
  /** Problems taken from the beginning; undefined = all of a file, 512 of "starter". */
  readonly limit?: number;
  /** JSON file for the result. */
  readonly out: string;
  readonly temperature: number;
  readonly maxNewTokens: number;
  readonly system?: string;
  readonly promptSuffix: string;
  readonly seed: number;
  /** 0 = all cores. */
  readonly threads: number;
}

const STARTER_PROBLEMS = 512;

export async function runEval(options: EvalOptions): Promise<void> {
  const dataset = loadDataset(options.data, "validation");
  const n = Math.min(options.limit ?? (options.data === "starter" ? STARTER_PROBLEMS : dataset.size), dataset.size);
  const { config, tokenizer, engine } = await openModel(options.model, options.threads);
  const rewards = await loadRewards(
    {
      functions: [
        { name: "correctness", weight: 1 },
        { name: "format", weight: 1 },
      ],
      max_error_rate: 0,
      overlong_buffer: 0,
    },
    options.maxNewTokens,
  );
  const score = makeScorer(tokenizer, rewards);
  const problems = Array.from({ length: n }, (_, i) => dataset.problem(i));
  const prompts = problems.map(({ id, question }) => {
    const messages: ChatMessage[] = [{ role: "user", content: question + options.promptSuffix }];
    if (options.system !== undefined) messages.unshift({ role: "system", content: options.system });
    const ids = tokenizer.chatPrompt(messages);
    if (ids.length + options.maxNewTokens > config.maxPositions)
      throw new UserError(
        `${id}: the prompt has ${ids.length} tokens; with --max-new-tokens ${options.maxNewTokens} that is more than the model's context of ${config.maxPositions}. Lower --max-new-tokens.`,
      );
    return ids;
  });
  const result: Record<string, unknown> = {
    model: options.model,
    data: options.data,
    n,
    questions_sha256: sha256OfList(problems.map(({ question, answer }) => [question, answer])),
    prompt_sha256: sha256OfList([options.system ?? null, options.promptSuffix]),
    temperature: options.temperature,
    max_new_tokens: options.maxNewTokens,
    seed: options.seed,
    train_seed: trainSeedOf(options.model),
    weights_sha256: engine.version.sha256,
  };
  for (const mode of ["sampled", "greedy"] as const) {
    const temperature = mode === "greedy" ? 0 : options.temperature;
    const tasks = problems.map(({ id, question, answer }, i) => ({
      taskId: `${mode}-${id}`,
      kind: "eval" as const,
      batch: 0,
      minIteration: 0,
      promptIds: prompts[i]!,
      groupSize: 1,
      seed: taskSeed(options.seed, `${mode}-${id}`),
      sampling: { temperature, maxNewTokens: options.maxNewTokens, stopIds: tokenizer.stopIds },
      problem: { question, answer },
    }));
    const bar = new SingleBar({
      format: `${mode.padEnd(7)} {bar} {value}/{total}  ETA {eta_formatted}`,
      hideCursor: true,
      noTTYOutput: false,
      stream: process.stderr,
    });
    bar.start(n, 0);
    const started = performance.now();
    const generated = await generateAll(
      engine,
      tasks.map((task) => ({ ...task, requestId: task.taskId })),
      (done) => bar.update(done),
    );
    bar.stop();
    const seconds = (performance.now() - started) / 1000;
    const completions = (await Promise.all(generated.map((group, i) => score(tasks[i]!, group, "eval")))).map(
      (group) => group.completions[0]!,
    );
    const correct = completions.filter((completion) => completion.outcome === "correct").length;
    const ci95 = wilsonInterval(correct, n);
    const share = (count: number): number => count / n;
    result[mode] = {
      accuracy: share(correct),
      ci95,
      n,
      format_rate: share(completions.filter((completion) => completion.rewards.format === 1).length),
      truncation_rate: share(completions.filter((completion) => completion.finishReason === "length").length),
      mean_length: completions.reduce((sum, completion) => sum + completion.ids.length, 0) / n,
      tokens_per_second: completions.reduce((sum, completion) => sum + completion.ids.length, 0) / seconds,
      correct: completions.map((completion) => Number(completion.outcome === "correct")),
    };
    const percent = (x: number): string => (100 * x).toFixed(1);
    console.log(
      `${mode.padEnd(7)} accuracy ${percent(share(correct))} %  (95 % interval ${percent(ci95[0])} to ${percent(ci95[1])}, n = ${n})`,
    );
  }
  await engine.dispose();
  mkdirSync(dirname(options.out), { recursive: true });
  writeFileSync(options.out, `${JSON.stringify(result, null, 2)}\n`);
}
