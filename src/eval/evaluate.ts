/** Evaluates a model on held-out problems, judged as in training and as others would judge it. */
import { EnginePool, type PoolOptions } from "../engine/pool.js";
import { UserError } from "../errors.js";
import { type Generation, generate } from "../generate/generation.js";
import { type EvalFolder, openEvalFolder } from "./folder/write-results.js";
import { type Prediction, judge } from "./folder/predictions.js";
import { type Prompts, makePrompts, promptIdsOf } from "./prompts.js";
import { type Mode, type PromptName, modes } from "./folder/names.js";
import { EVAL_VERSION, type EvalSettings, sha256OfList } from "./folder/settings.js";
import type { ModeMetrics } from "./folder/read-results.js";
import { summarize } from "./summary.js";
import { type Target, findTarget } from "./target.js";
import { type Tokenizer, turnEndNote } from "../model/tokenizer.js";
import { readModel } from "../model/read-model.js";
import { taskSeed } from "../protocol/seeds.js";
import { type Problem, loadDataset } from "../tasks/dataset.js";
import { percent, points } from "../terminal/format.js";
import { showProgress } from "../terminal/progress-bar.js";

export interface EvalOptions {
  /** Model, checkpoint or adapter folder, run directory, or hub id. */
  readonly model: string;
  /** A step of the run directory; the last one by default. */
  readonly checkpoint?: number;
  /** "starter", "starter-test", or a JSONL file with question/answer. */
  readonly data: string;
  /** Problems taken from the beginning; undefined = all of a file, 512 of the starter's. */
  readonly limit?: number;
  readonly out: string;
  readonly overwrite: boolean;
  readonly modes: readonly Mode[];
  /** Completions of each question when sampled. */
  readonly samples: number;
  readonly temperature: number;
  readonly maxNewTokens: number;
  readonly prompt: PromptName;
  /** These two shape --prompt default; undefined = as the model's training run asked. */
  readonly system?: string;
  readonly promptSuffix?: string;
  readonly fewshot?: string;
  readonly seed: number;
  readonly engines: PoolOptions;
}

const STARTER_PROBLEMS = 512;

interface Questions {
  readonly problems: readonly Problem[];
  readonly promptIds: readonly Int32Array[];
  readonly prompts: Prompts;
  readonly tokenizer: Tokenizer;
}

export async function evaluate(options: EvalOptions): Promise<void> {
  const begun = performance.now();
  const target = findTarget(options.model, options.checkpoint);
  const problems = takeProblems(options);
  const prompts = choosePrompts(options, target, problems);
  const files = readModel(target.model);
  const { tokenizer, shape } = files;
  const isChat = prompts.texts.some((text) => typeof text !== "string");
  for (const note of [prompts.note, isChat ? turnEndNote(tokenizer) : undefined])
    if (note !== undefined) process.stderr.write(`${note}\n`);
  const promptIds = prompts.texts.map((text) => promptIdsOf(tokenizer, text));
  const questions: Questions = { problems, promptIds, prompts, tokenizer };
  refuseLong(questions, options.maxNewTokens, shape.maxPositions);
  const wanted = modes.filter((mode) => options.modes.includes(mode));

  const { pool, version } = await EnginePool.open(files, options.engines);
  try {
    const settings: EvalSettings = {
      version: EVAL_VERSION,
      model: target.model,
      data: options.data,
      n: problems.length,
      prompt: options.prompt,
      questions_sha256: sha256OfList(problems.map(({ question, answer }) => [question, answer])),
      prompt_sha256: prompts.sha256,
      temperature: options.temperature,
      max_new_tokens: options.maxNewTokens,
      samples: options.samples,
      seed: options.seed,
      train_seed: target.trainSeed,
      weights_sha256: version.sha256,
      device: options.engines.device ?? "cpu",
      dtype: options.engines.dtype ?? "float32",
    };
    const folder = openEvalFolder(options.out, settings, wanted, options.overwrite);
    if (folder.kept.length > 0)
      process.stderr.write(
        `${options.out}: ${folder.finished ? "already evaluated" : "going on"}, ${folder.kept.length} completions are there\n`,
      );
    const predictions: Prediction[] = [];
    const figures: Partial<Record<Mode, ModeMetrics>> = {};
    const earlier = folder.seconds.wall;
    for (const mode of wanted) {
      const ofMode = await answer(mode, questions, pool, folder, options);
      folder.seconds.wall = earlier + (performance.now() - begun) / 1000;
      predictions.push(...ofMode);
      figures[mode] = summarize(ofMode, samplesOf(mode, options), folder.seconds.modes[mode] ?? Number.NaN);
      console.log(describe(mode, figures[mode]));
    }
    if (!folder.finished) folder.finish(predictions, figures);
  } finally {
    await pool.stop();
  }
}

function takeProblems({ data, limit }: EvalOptions): Problem[] {
  const dataset = loadDataset(data, "validation");
  const generated = data === "starter" || data === "starter-test";
  const n = Math.min(limit ?? (generated ? STARTER_PROBLEMS : dataset.size), dataset.size);
  return Array.from({ length: n }, (_, i) => dataset.problem(i));
}

function choosePrompts(options: EvalOptions, target: Target, problems: readonly Problem[]): Prompts {
  const { prompt: name, system, promptSuffix, fewshot } = options;
  if (name !== "default" && (system !== undefined || promptSuffix !== undefined))
    throw new UserError(
      `--system and --prompt-suffix are of --prompt default, found --prompt ${name}. Leave them out.`,
    );
  if (name !== "lm-eval-5shot" && fewshot !== undefined)
    throw new UserError(`--fewshot is of --prompt lm-eval-5shot, found --prompt ${name}. Leave it out.`);
  const questions = problems.map(({ question }) => question);
  const asked = {
    system: system ?? target.prompt?.system ?? null,
    suffix: promptSuffix ?? target.prompt?.suffix ?? "",
  };
  return makePrompts({ name, ...asked, ...(fewshot !== undefined && { fewshot }) }, questions);
}

function refuseLong({ promptIds, problems }: Questions, maxNewTokens: number, context: number): void {
  for (const [i, { length }] of promptIds.entries())
    if (length + maxNewTokens > context)
      throw new UserError(
        `${problems[i]!.id}: the prompt has ${length} tokens; with --max-new-tokens ${maxNewTokens} that is more than the model's context of ${context}. ${length < context ? `Lower it to ${context - length}` : "Shorten the prompt, or choose a model with a longer context"}.`,
      );
}

const samplesOf = (mode: Mode, { samples }: EvalOptions): number => (mode === "greedy" ? 1 : samples);

/** All predictions of a mode, in order: those kept and those generated for the other questions. */
async function answer(
  mode: Mode,
  questions: Questions,
  pool: EnginePool,
  folder: EvalFolder,
  options: EvalOptions,
): Promise<Prediction[]> {
  const { problems } = questions;
  const predictions = folder.kept.filter((prediction) => prediction.mode === mode);
  const there = new Set(predictions.map(({ index }) => index));
  const open = [...problems.keys()].filter((index) => !there.has(index));
  const progress = showProgress({ name: mode, total: problems.length, present: there.size });
  const [started, earlier] = [performance.now(), folder.seconds.modes[mode] ?? 0];
  await Promise.all(
    open.map(async (index) => {
      const answers = await answerQuestion(mode, index, questions, pool, options);
      predictions.push(...answers);
      folder.seconds.modes[mode] = earlier + (performance.now() - started) / 1000;
      folder.append(answers);
      progress.add(1);
    }),
  );
  progress.stop();
  return predictions.sort((a, b) => a.index - b.index || a.sample - b.sample);
}

async function answerQuestion(
  mode: Mode,
  index: number,
  { problems, promptIds, prompts, tokenizer }: Questions,
  pool: EnginePool,
  options: EvalOptions,
): Promise<Prediction[]> {
  const problem = problems[index]!;
  const requestId = `${mode}-${problem.id}`;
  // lm-eval leaves special tokens out of a raw text; in a chat they stay, as in training
  const skipSpecial = typeof prompts.texts[index] === "string";
  const decoder = { decode: (ids: ArrayLike<number>) => tokenizer.decode(ids, { skipSpecial }) };
  const generation: Generation = {
    requestId,
    promptIds: promptIds[index]!,
    n: samplesOf(mode, options),
    temperature: mode === "greedy" ? 0 : options.temperature,
    maxTokens: options.maxNewTokens,
    stopIds: tokenizer.stopIds,
    stops: prompts.stopStrings,
    seed: taskSeed(options.seed, requestId),
  };
  const { choices } = await generate(pool, decoder, generation);
  return choices.map(({ text, tokens, finishReason }, sample) =>
    judge({ mode, index, sample, ...problem, text, finish_reason: finishReason, tokens: tokens.length }),
  );
}

function describe(mode: Mode, metrics: ModeMetrics): string {
  const { accuracy, ci95, n, extractors, format_rate, truncation_rate } = metrics;
  const atK = Object.entries({ "pass@": metrics.pass_at_k, "maj@": metrics.maj_at_k }).flatMap(([name, byK]) =>
    Object.entries(byK ?? {}).map(([k, share]) => `${name}${k} ${points(share)}`),
  );
  const byExtractor = Object.entries(extractors).map(([name, reading]) => `${name} ${points(reading.accuracy)}`);
  return [
    `${mode.padEnd(7)} accuracy ${percent(accuracy)}  (95 % interval ${points(ci95[0])} to ${points(ci95[1])}, n = ${n})`,
    `        format ${percent(format_rate)}, truncated ${percent(truncation_rate)}; by extractor ${byExtractor.join(", ")}`,
    ...(atK.length > 0 ? [`        ${atK.join(", ")}`] : []),
  ].join("\n");
}
