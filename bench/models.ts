/** The models that are measured, and prompts for them as both sides get them: token ids. */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { readModelConfig } from "../src/model/config.js";
import { loadTokenizer } from "../src/model/tokenizer.js";
import { parseGsm8k } from "../src/tasks/gsm8k.js";
import { starterProblem } from "../src/tasks/starter.js";
import { repositoryFile } from "./side.js";

export const starterModel = repositoryFile("assets/starter");

export interface Prompts {
  readonly stopIds: readonly number[];
  readonly padId: number;
  /** Token ids of `count` training problems from number `first` on. */
  readonly prompts: (first: number, count: number) => number[][];
}

/** The starter's generated problems. @param model folder of a model with the starter's tokenizer */
export const starterPrompts = (model = starterModel): Prompts =>
  promptsOf(model, (i) => starterProblem("train", i).question);

/**
 * GSM8K's training questions; the starter's where GSM8K is not there.
 * @param gsm8k folder with train.jsonl
 */
export function gsm8kPrompts(model: string, gsm8k: string | null): Prompts {
  if (gsm8k === null) return starterPrompts(model);
  const file = join(gsm8k, "train.jsonl");
  const problems = parseGsm8k(readFileSync(file, "utf8"), file);
  return promptsOf(model, (i) => problems[i % problems.length]!.question);
}

function promptsOf(model: string, question: (i: number) => string): Prompts {
  const tokenizer = loadTokenizer(model, readModelConfig(model));
  return {
    stopIds: tokenizer.stopIds,
    padId: padOf(model) ?? tokenizer.stopIds[0]!,
    prompts: (first, count) =>
      Array.from({ length: count }, (_, i) => [
        ...tokenizer.chatPrompt([{ role: "user", content: question(first + i) }]),
      ]),
  };
}

/** The pad token that a model's tokenizer names. */
function padOf(model: string): number | undefined {
  const file = join(model, "tokenizer_config.json");
  const { pad_token: pad } = JSON.parse(readFileSync(file, "utf8")) as { pad_token?: unknown };
  return typeof pad === "string" ? loadTokenizer(model).encode(pad, { addSpecial: false })[0] : undefined;
}

/**
 * The folder that the user named, or the one that test/reference/smollm2_model.py writes; null when
 * it is not there.
 */
export function findSmollm2(given: string | undefined): string | null {
  return modelIn(
    given ?? process.env["FINELLAMA_SMOLLM2"] ?? join(homedir(), ".cache/finellama-rl/smollm2-135m-instruct"),
  );
}

const modelIn = (folder: string): string | null => (existsSync(join(folder, "model.safetensors")) ? folder : null);

export const noSmollm2 = {
  skipped:
    "SmolLM2-135M is not there; python test/reference/smollm2_model.py writes it, --smollm2 DIR or FINELLAMA_SMOLLM2 name another folder",
};

/** The folder that the user named, or models/qwen2.5-coder-0.5b; null when it is not there. */
export const findQwen = (given: string | undefined): string | null =>
  modelIn(given ?? process.env["FINELLAMA_QWEN"] ?? repositoryFile("models/qwen2.5-coder-0.5b"));

export const noQwen = {
  skipped:
    "Qwen2.5-Coder-0.5B is not there; python test/reference/qwen_coder_model.py models/qwen2.5-coder-0.5b writes it, --qwen DIR or FINELLAMA_QWEN name another folder",
};

/** The folder that the user named, or ../shared/gsm8k; null when it has no train.jsonl. */
export function findGsm8k(given: string | undefined): string | null {
  const folder = given ?? repositoryFile("../shared/gsm8k");
  return existsSync(join(folder, "train.jsonl")) ? folder : null;
}
