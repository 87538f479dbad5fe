/**
 * `eval`: a model's sampled and greedy answers to held-out problems, judged as in training and as
 * others would judge them.
 */
import { EnginePool, type PoolOptions } from "../engine/pool.js";
import type { GenerateRequest, GeneratedCompletion, GeneratedGroup } from "../engine/engine-types.js";
import { UserError } from "../errors.js";
import { type EvalFolder, type EvalSettings, openEvalFolder } from "../eval/folder/eval-folder.js";
import { type Prediction, judge } from "../eval/folder/predictions.js";
import { type PromptName, type Prompts, findStop, makePrompts, promptIdsOf } from "../eval/prompts.js";
import { EVAL_VERSION, type Mode, modes, sha256OfList } from "../eval/folder/result-file.js";
import { type ModeMetrics, summarize } from "../eval/summary.js";
import { type Target, findTarget } from "../eval/target.js";
import type { Tokenizer } from "../model/tokenizer.js";
import { readModel } from "../model/read-model.js";
import { taskSeed } from "../protocol/seeds.js";
import { type Problem, loadDataset } from "../tasks/dataset.js";
import { countBar } from "../terminal/count-bar.js";

export interface EvalOptions {
  /** Model, checkpoint or adapter folder, run directory, or hub id. */
  readonly model: string;
  /** Step, of a run directory; default the last. */
  readonly checkpoint?: number;
  /** "starter", "starter-test", or a JSONL file with question/answer. */
  readonly data: string;
  /** Problems taken from the beginning; undefined = all of a file, 512 of the starter's. */
  readonly limit?: number;
  /** Folder for predictions.jsonl and metrics.json. */
  readonly out: string;
  readonly overwrite: boolean;
  readonly modes: readonly Mode[];
  /** Completions of each question when sampled. */
  readonly samples: number;
  readonly temperature: number;
  readonly maxNewTokens: number;
  readonly prompt: PromptName;
  /**
   * Of the prompt "default"; undefined = those of the run that the model is a checkpoint of, if it
   * is one.
   */
  readonly system?: string;
  readonly promptSuffix?: string;
  readonly fewshot?: string;
  readonly seed: number;
  /** Where and how the engines compute. */
  readonly engines: PoolOptions;
}

const STARTER_PROBLEMS = 512;

/** What is asked, the same for every mode. */
interface Questions {
  readonly problems: readonly Problem[];
  readonly promptIds: readonly Int32Array[];
  readonly prompts: Prompts;
  readonly tokenizer: Tokenizer;
}

export async function runEval(options: EvalOptions): Promise<void> {
  const begun = performance.now();
  const target = findTarget(options.model, options.checkpoint);
  const problems = takeProblems(options);
  const prompts = choosePrompts(options, target, problems);
  if (prompts.note !== undefined) process.stderr.write(`${prompts.note}\n`);
  const model = readModel(target.model);
  const { tokenizer, config } = model;
  const promptIds = prompts.texts.map((text) => promptIdsOf(tokenizer, text));
  refuseLong(promptIds, problems, options.maxNewTokens, config.maxPositions);
  const wanted = modes.filter((mode) => options.modes.includes(mode));

  const { pool, version } = await EnginePool.open(model, options.engines);
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
      const ofMode = await answer(mode, { problems, promptIds, prompts, tokenizer }, pool, folder, options);
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
  const choice = {
    name,
    system: system ?? target.prompt?.system ?? null,
    suffix: promptSuffix ?? target.prompt?.suffix ?? "",
    ...(fewshot !== undefined && { fewshot }),
  };
  return makePrompts(
    choice,
    problems.map(({ question }) => question),
  );
}

function refuseLong(
  promptIds: readonly Int32Array[],
  problems: readonly Problem[],
  maxNewTokens: number,
  context: number,
): void {
  for (const [i, { length }] of promptIds.entries())
    if (length + maxNewTokens > context)
      throw new UserError(
        `${problems[i]!.id}: the prompt has ${length} tokens; with --max-new-tokens ${maxNewTokens} that is more than the model's context of ${context}. Lower --max-new-tokens.`,
      );
}

const samplesOf = (mode: Mode, { samples }: EvalOptions): number => (mode === "greedy" ? 1 : samples);

/**
 * All predictions of a mode, in order: those kept, and what is generated for the other questions.
 */
async function answer(
  mode: Mode,
  questions: Questions,
  pool: EnginePool,
  folder: EvalFolder,
  options: EvalOptions,
): Promise<Prediction[]> {
  const { problems, promptIds, prompts, tokenizer } = questions;
  const predictions = folder.kept.filter((prediction) => prediction.mode === mode);
  const there = new Set(predictions.map(({ index }) => index));
  const asked = problems.flatMap(({ id }, index) => {
    if (there.has(index)) return [];
    const requestId = `${mode}-${id}`;
    const request: GenerateRequest = {
      requestId,
      promptIds: promptIds[index]!,
      groupSize: samplesOf(mode, options),
      seed: taskSeed(options.seed, requestId),
      sampling: {
        temperature: mode === "greedy" ? 0 : options.temperature,
        maxNewTokens: options.maxNewTokens,
        stopIds: tokenizer.stopIds,
      },
      stream: prompts.stopStrings.length > 0,
    };
    return { index, request };
  });
  const bar = countBar(mode, problems.length, there.size);
  const [started, earlier] = [performance.now(), folder.seconds.modes[mode] ?? 0];
  const tails = new StopWatch(tokenizer, prompts.stopStrings, options.engines.segmentLength);
  await Promise.all(
    asked.map(async ({ index, request }) => {
      const { requestId } = request;
      const group = await pool.generate(request, ({ completion, ids }) => {
        if (tails.stops(`${requestId} ${completion}`, ids)) pool.endCompletion(requestId, completion);
      });
      const judged = judgeGroup(group, mode, index, questions);
      predictions.push(...judged);
      folder.seconds.modes[mode] = earlier + (performance.now() - started) / 1000;
      folder.append(judged);
      bar.add(1);
    }),
  );
  bar.stop();
  return predictions.sort((a, b) => a.index - b.index || a.sample - b.sample);
}

function judgeGroup({ completions }: GeneratedGroup, mode: Mode, index: number, questions: Questions): Prediction[] {
  const { problems, prompts, tokenizer } = questions;
  const raw = typeof prompts.texts[index] === "string";
  return completions.map((completion, sample) => {
    const read = readCompletion(completion, tokenizer, prompts.stopStrings, raw);
    return judge({ mode, index, sample, ...problems[index]!, ...read });
  });
}

/**
 * The text that is judged. In a raw text special tokens are left out, as lm-eval leaves them out;
 * in a chat only the stop token is, as in training.
 */
function readCompletion(
  { ids, finishReason }: GeneratedCompletion,
  tokenizer: Tokenizer,
  stopStrings: readonly string[],
  raw: boolean,
): Pick<Prediction, "text" | "finish_reason" | "tokens"> {
  const textOf = (count: number): string => tokenizer.decode(ids.subarray(0, count), { skipSpecial: raw });
  const text = textOf(finishReason === "stop" ? ids.length - 1 : ids.length);
  const stop = findStop(text, stopStrings);
  if (stop === undefined) return { text, finish_reason: finishReason, tokens: ids.length };
  // the fewest tokens that spell a stop string: what was generated behind them does not count
  let tokens = ids.length;
  while (findStop(textOf(tokens - 1), stopStrings) !== undefined) tokens--;
  return { text: text.slice(0, stop), finish_reason: "stop", tokens };
}

/** Looks for stop strings in what is being generated. */
class StopWatch {
  /** More tokens than a stop string has. */
  static readonly LONGEST_STOP = 40;
  private readonly tails = new Map<string, number[]>();
  private readonly tokenizer: Tokenizer;
  private readonly stopStrings: readonly string[];
  private readonly tailLength: number;

  constructor(tokenizer: Tokenizer, stopStrings: readonly string[], segmentLength: number) {
    this.tokenizer = tokenizer;
    this.stopStrings = stopStrings;
    this.tailLength = StopWatch.LONGEST_STOP + segmentLength;
  }

  stops(completion: string, ids: Int32Array): boolean {
    const tail = [...(this.tails.get(completion) ?? []), ...ids].slice(-this.tailLength);
    this.tails.set(completion, tail);
    return findStop(this.tokenizer.decode(tail, { skipSpecial: true }), this.stopStrings) !== undefined;
  }
}

function describe(mode: Mode, metrics: ModeMetrics): string {
  const percent = (x: number): string => (100 * x).toFixed(1);
  const { accuracy, ci95, n, extractors, format_rate, truncation_rate } = metrics;
  const atK = Object.entries({ "pass@": metrics.pass_at_k, "maj@": metrics.maj_at_k }).flatMap(([name, byK]) =>
    Object.entries(byK ?? {}).map(([k, share]) => `${name}${k} ${percent(share)}`),
  );
  return [
    `${mode.padEnd(7)} accuracy ${percent(accuracy)} %  (95 % interval ${percent(ci95[0])} to ${percent(ci95[1])}, n = ${n})`,
    `        format ${percent(format_rate)} %, truncated ${percent(truncation_rate)} %; by extractor ${Object.entries(
      extractors,
    )
      .map(([name, reading]) => `${name} ${percent(reading.accuracy)}`)
      .join(", ")}`,
    ...(atK.length > 0 ? [`        ${atK.join(", ")}`] : []),
  ].join("\n");
}
