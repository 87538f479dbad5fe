/**
 * What the command line hands to each command, already parsed and checked. Types only: cli.ts must not load a command
 * before it runs.
 */
import type { SftOptions as SftTraining } from "../learner/sft.js";

export interface DownloadModelOptions {
  /** Branch, tag or commit. */
  readonly revision: string;
}

export interface PrepareGsm8kOptions {
  /** Folder with train.jsonl and test.jsonl; undefined = download them. */
  readonly from?: string;
  readonly out: string;
}

export interface SftOptions extends SftTraining {
  /** Hugging Face folder; with `fromScratch` only its config.json and tokenizer are read. */
  readonly model: string;
  /** "starter", or a JSONL file with question/answer. */
  readonly data: string;
  /** Folder that becomes the trained model; checkpoints go to its checkpoints/. */
  readonly out: string;
  readonly fromScratch: boolean;
  readonly resume: boolean;
  readonly backend: "auto" | "tensorflow" | "wasm" | "cpu";
}

export interface InferOptions {
  readonly model: string;
  readonly prompt: string;
  /** System message; undefined = the template's own default. */
  readonly system?: string;
  /** The prompt is taken as it is, without the chat template. */
  readonly raw: boolean;
  readonly greedy: boolean;
  /** Undefined = what the model's generation_config.json says. */
  readonly temperature?: number;
  readonly maxNewTokens: number;
  readonly seed: number;
  readonly json: boolean;
  /** 0 = all cores. */
  readonly threads: number;
}

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

export interface CompareOptions {
  /** Result files of one algorithm, a seed each, in the order of `b`; both or neither. */
  readonly a?: readonly string[];
  readonly b?: readonly string[];
  /** JSON file for the figures. */
  readonly json?: string;
}

export interface LogprobsOptions {
  readonly model: string;
  /** JSONL file, each line {"prompt_ids": [...], "completion_ids": [...]}. */
  readonly input: string;
  readonly engine: "actor" | "learner";
  readonly temperature: number;
  readonly backend: "auto" | "tensorflow" | "wasm" | "cpu";
  /** 0 = all cores. */
  readonly threads: number;
}

export interface PrepareStarterOptions {
  /** JSONL file. */
  readonly out: string;
  readonly count: number;
  readonly seed: number;
  /** Shares of the styles; the rest is careless. */
  readonly careful: number;
  readonly terse: number;
}
