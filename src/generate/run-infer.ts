/** Answers one prompt, at once or as the text comes, or each line of a file. */
import type { GenerateRequest } from "../engine/engine-types.js";
import { EnginePool, type PoolOptions } from "../engine/pool.js";
import { UserError } from "../errors.js";
import {
  type AnswerFile,
  type AnswerLine,
  type PromptLine,
  openAnswerFile,
  parsePrompt,
  readPromptLines,
  shortHash,
} from "./prompt-file.js";
import { type Asking, answersOf, makeRequest } from "./prompting.js";
import { notAppliedNote } from "../model/generation-config.js";
import { type ModelFiles, readModel } from "../model/read-model.js";
import { turnEndNote } from "../model/tokenizer.js";
import { type Generation, generate } from "./generation.js";

export interface InferOptions {
  readonly model: string;
  /** Either this or `input`. */
  readonly prompt?: string;
  /** File of JSON lines, see prompt-file.ts. */
  readonly input?: string;
  readonly output?: string;
  readonly overwrite: boolean;
  /** Lines of `output` that hold an error are asked again. */
  readonly retryErrors?: boolean;
  /** System message; undefined = the template's own default. */
  readonly system?: string;
  readonly raw: boolean;
  readonly samples: number;
  readonly greedy: boolean;
  /** Undefined = what the model's generation_config.json says. */
  readonly temperature?: number;
  readonly maxNewTokens: number;
  readonly seed: number;
  readonly stream: boolean;
  readonly json: boolean;
  readonly engines: PoolOptions;
}

interface Asked {
  readonly pool: EnginePool;
  readonly files: ModelFiles;
  readonly asking: Asking;
}

export type LineProgress = (total: number, present: number) => { add(count: number): void; stop(): void };

export async function runInfer(options: InferOptions, progress: LineProgress): Promise<void> {
  const { input, output, prompt, samples, engines: settings } = options;
  refuseCombinations(options);
  const lines = input === undefined ? [] : readPromptLines(input);
  const files = readModel(options.model);
  const asking: Asking = {
    system: options.system ?? null,
    raw: options.raw,
    samples,
    temperature: options.greedy ? 0 : (options.temperature ?? files.generation.temperature),
    maxNewTokens: options.maxNewTokens,
    seed: options.seed,
  };
  const notes = [
    notAppliedNote(files.generation, asking.temperature),
    options.raw ? undefined : turnEndNote(files.tokenizer),
  ];
  for (const note of notes) if (note !== undefined) process.stderr.write(`${note}\n`);
  // before the weights are read: a prompt that cannot be asked
  const request = prompt === undefined ? null : makeRequest(files, prompt, asking, "--prompt", 0);
  const { pool, version } = await EnginePool.open(files, settings);
  const asked: Asked = { pool, files, asking };
  try {
    if (request === null) {
      const settingsHash = shortHash(JSON.stringify([version.sha256, settings.dtype, asking]));
      const file = openAnswerFile(output!, input!, lines, settingsHash, options);
      try {
        await answerLines(asked, lines, file, settingsHash, progress);
      } finally {
        file.close();
      }
      for (const error of file.errors.values()) process.stderr.write(`${error}\n`);
      process.stderr.write(`${output}: ${plural(lines.length, "line")}, ${plural(file.errors.size, "error")}\n`);
      if (file.errors.size > 0) process.exitCode = 1;
    } else if (options.stream) await streamAnswer(asked, request);
    else await printAnswers(asked, request, options.json);
  } finally {
    await pool.stop();
  }
}

const plural = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? "" : "s"}`;

function refuseCombinations({ prompt, input, output, stream, samples, engines }: InferOptions): void {
  if ((prompt === undefined) === (input === undefined))
    throw new UserError("infer: expected --prompt TEXT or --input FILE. Give one of them.");
  if ((input === undefined) !== (output === undefined))
    throw new UserError("infer: --input and --output go together: the answers to a file are written to another.");
  if (stream && samples > 1)
    throw new UserError(`--stream: expected one answer, found -n ${samples}. Leave one of them out.`);
  if (samples > engines.maxRows)
    throw new UserError(`-n ${samples}: expected at most --max-rows (${engines.maxRows}). Lower it, or raise that.`);
}

async function printAnswers({ pool, files }: Asked, request: GenerateRequest, json: boolean): Promise<void> {
  const group = await pool.generate(request);
  for (const [c, { text, finish_reason, tokens, logprob }] of answersOf(group, files).entries()) {
    if (json) {
      const ids = { prompt_ids: [...request.promptIds], completion_ids: [...group.completions[c]!.ids] };
      console.log(JSON.stringify({ ...ids, text, finish_reason, logprob }));
      continue;
    }
    if (request.groupSize > 1) console.log(`--- ${c + 1} of ${request.groupSize} (${finish_reason}, ${tokens} tokens)`);
    console.log(text);
  }
}

async function streamAnswer({ pool, files, asking }: Asked, request: GenerateRequest): Promise<void> {
  const { requestId, promptIds, seed, sampling } = request;
  const generation: Generation = {
    requestId,
    promptIds,
    n: 1,
    temperature: asking.temperature,
    maxTokens: sampling.maxNewTokens,
    stopIds: sampling.stopIds,
    seed,
  };
  await generate(pool, files.tokenizer, generation, undefined, ({ text }) => void process.stdout.write(text));
  process.stdout.write("\n");
}

/** Answers the lines that are not there yet, as many at a time as keep every engine busy. */
async function answerLines(
  { pool, files, asking }: Asked,
  lines: readonly PromptLine[],
  file: AnswerFile,
  settingsHash: string,
  progress: LineProgress,
): Promise<void> {
  const asked = lines.filter((line) => file.isOpen(line));
  const there = lines.length - asked.length;
  if (there > 0) process.stderr.write(`going on: ${there} of ${lines.length} lines are there\n`);
  const bar = progress(lines.length, there);
  const open = asked.values();
  const lane = async (): Promise<void> => {
    for (const line of open) {
      file.add(await answerLine(line));
      bar.add(1);
    }
  };
  const answerLine = async (line: PromptLine): Promise<AnswerLine> => {
    const { index, where, text } = line;
    const hashes = { input_hash: shortHash(text), settings_hash: settingsHash };
    let head: Pick<AnswerLine, "index" | "id"> = { index };
    let request: GenerateRequest;
    try {
      const { prompt, ...id } = parsePrompt(line);
      head = { index, ...id };
      request = makeRequest(files, prompt, asking, where, index);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      return { ...head, ...hashes, error: error.message };
    }
    const completions = answersOf(await pool.generate(request), files);
    return { ...head, ...hashes, prompt_tokens: request.promptIds.length, completions };
  };
  const lanes = Math.max(1, Math.ceil((2 * pool.capacity) / asking.samples));
  try {
    await Promise.all(Array.from({ length: Math.min(lanes, lines.length) }, lane));
  } finally {
    bar.stop();
  }
}
