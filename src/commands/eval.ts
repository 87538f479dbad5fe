/** `eval`: sampled and greedy answers of a model to held-out problems, judged as in training and as others would. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SingleBar } from "cli-progress";
import { generateAll, openModel } from "../actors/local.js";
import { UserError } from "../errors.js";
import { type Prediction, judge } from "../eval/predictions.js";
import { EVAL_VERSION, type Mode, sha256OfList, trainSeedOf } from "../eval/result-file.js";
import { summarize } from "../eval/summary.js";
import type { ChatMessage } from "../model/tokenizer.js";
import { taskSeed } from "../protocol/seeds.js";
import { loadDataset } from "../tasks/dataset.js";

export interface EvalOptions {
  readonly model: string;
  /** "starter", "starter-test", or a JSONL file with question/answer. */
  readonly data: string;
  /** Problems taken from the beginning; undefined = all of a file, 512 of the starter's. */
  readonly limit?: number;
  /** Folder for predictions.jsonl and metrics.json. */
  readonly out: string;
  readonly modes: readonly Mode[];
  /** Completions of each question when sampled. */
  readonly samples: number;
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
  const begun = performance.now();
  const dataset = loadDataset(options.data, "validation");
  const generatedData = options.data === "starter" || options.data === "starter-test";
  const n = Math.min(options.limit ?? (generatedData ? STARTER_PROBLEMS : dataset.size), dataset.size);
  const { config, tokenizer, engine } = await openModel(options.model, options.threads);
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
  const predictions: Prediction[] = [];
  const figures: Record<string, unknown> = {};
  for (const mode of options.modes) {
    const samples = mode === "greedy" ? 1 : options.samples;
    const temperature = mode === "greedy" ? 0 : options.temperature;
    const requests = problems.map(({ id }, i) => ({
      requestId: `${mode}-${id}`,
      promptIds: prompts[i]!,
      groupSize: samples,
      seed: taskSeed(options.seed, `${mode}-${id}`),
      sampling: { temperature, maxNewTokens: options.maxNewTokens, stopIds: tokenizer.stopIds },
    }));
    const bar = new SingleBar({
      format: `${mode.padEnd(7)} {bar} {value}/{total}  ETA {eta_formatted}`,
      hideCursor: true,
      noTTYOutput: false,
      stream: process.stderr,
    });
    bar.start(n, 0);
    const started = performance.now();
    const generated = await generateAll(engine, requests, (done) => bar.update(done));
    bar.stop();
    const seconds = (performance.now() - started) / 1000;
    const judged = generated.flatMap(({ completions }, index) =>
      completions.map(({ ids, finishReason }, sample) => {
        if (finishReason === "error") throw new Error(`${problems[index]!.id}: the engine gave no completion`);
        const text = tokenizer.decode(finishReason === "stop" ? ids.subarray(0, -1) : ids);
        return judge({
          mode,
          index,
          sample,
          ...problems[index]!,
          text,
          finish_reason: finishReason,
          tokens: ids.length,
        });
      }),
    );
    predictions.push(...judged);
    const metrics = summarize(judged, samples, seconds);
    figures[mode] = metrics;
    const percent = (x: number): string => (100 * x).toFixed(1);
    console.log(
      `${mode.padEnd(7)} accuracy ${percent(metrics.accuracy)} %  (95 % interval ${percent(metrics.ci95[0])} to ${percent(metrics.ci95[1])}, n = ${n})`,
    );
  }
  const result = {
    version: EVAL_VERSION,
    model: options.model,
    data: options.data,
    n,
    prompt: "default",
    questions_sha256: sha256OfList(problems.map(({ question, answer }) => [question, answer])),
    prompt_sha256: sha256OfList([options.system ?? null, options.promptSuffix]),
    temperature: options.temperature,
    max_new_tokens: options.maxNewTokens,
    samples: options.samples,
    seed: options.seed,
    train_seed: trainSeedOf(options.model),
    weights_sha256: engine.version.sha256,
    wall_seconds: (performance.now() - begun) / 1000,
    ...figures,
  };
  await engine.dispose();
  mkdirSync(options.out, { recursive: true });
  writeFileSync(join(options.out, "predictions.jsonl"), predictions.map((p) => `${JSON.stringify(p)}\n`).join(""));
  writeFileSync(join(options.out, "metrics.json"), `${JSON.stringify(result, null, 2)}\n`);
}
