/**
 * Prompts by name: ours, and those of published accuracies, equal to the character. Sources:
 * lm-eval 0.4.13 `tasks/gsm8k/gsm8k.yaml`, `gsm8k-cot-zeroshot.yaml`; verl 0.9.1
 * `examples/data_preprocess/gsm8k.py`; QwenLM/Qwen2.5-Math a45202b `evaluation/utils.py`.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { UserError } from "../errors.js";
import type { ChatMessage, Tokenizer } from "../model/tokenizer.js";
import { loadDataset } from "../tasks/dataset.js";
import { gsm8kFiles } from "../tasks/gsm8k.js";
import { FEWSHOT_EXAMPLES, fewshotIndices } from "./fewshot.js";
import type { PromptName } from "./folder/names.js";
import { sha256OfList } from "./folder/settings.js";

export interface PromptChoice {
  readonly name: PromptName;
  /** The system message of `default`; null = the chat template's own. */
  readonly system: string | null;
  /** Appended to each question by `default`. */
  readonly suffix: string;
  /** File of training problems, from which `lm-eval-5shot` takes its examples. */
  readonly fewshot?: string;
}

export interface Prompts {
  /** [n] the questions as the model reads them: a chat, or a raw text to go on with. */
  readonly texts: readonly (readonly ChatMessage[] | string)[];
  /** Hash of all text around the questions. */
  readonly sha256: string;
  /** The completion ends before the first of these. */
  readonly stopStrings: readonly string[];
  readonly note?: string;
}

/** Qwen's sentence, in its system message or behind the question. */
const BOXED = "Please reason step by step, and put your final answer within \\boxed{}.";
const VERL = 'Let\'s think step by step and output the final answer after "####".';
const LM_EVAL_STOPS = ["</s>", "<|im_end|>"];

/** @param questions from the first one on @throws UserError for 5-shot without training problems */
export function makePrompts(choice: PromptChoice, questions: readonly string[]): Prompts {
  const { name, system, suffix } = choice;
  switch (name) {
    case "default":
      return chat([system, suffix], questions, system, (question) => question + suffix);
    // Qwen2.5-Math calls this one qwen25-math-cot, and the next one qwen-boxed
    case "boxed":
      return chat([name, BOXED], questions, BOXED, (question) => question);
    case "qwen-boxed": {
      const plain = "You are a helpful assistant.";
      return chat([name, plain, BOXED], questions, plain, (question) => `${question}\n${BOXED}`);
    }
    case "verl":
      return chat([name, VERL], questions, null, (question) => `${question} ${VERL}`);
    case "lm-eval-5shot":
      return fewshot(choice, questions);
    case "lm-eval-cot-zeroshot":
      break;
  }
  return zeroShot(name, questions);
}

function chat(
  identity: readonly unknown[],
  questions: readonly string[],
  system: string | null,
  frame: (question: string) => string,
): Prompts {
  const before: ChatMessage[] = system === null ? [] : [{ role: "system", content: system }];
  const texts = questions.map((question) => [...before, { role: "user" as const, content: frame(question) }]);
  return { texts, sha256: sha256OfList(identity), stopStrings: [] };
}

function zeroShot(name: string, questions: readonly string[]): Prompts {
  const frame = (question: string): string => `Q: ${question}\nA: Let's think step by step.`;
  return {
    texts: questions.map(frame),
    sha256: sha256OfList([name, frame("")]),
    stopStrings: ["Q:", ...LM_EVAL_STOPS],
    note: 'lm_eval_strict looks for "#### "; this task\'s own strict filter in lm-eval looks for "The answer is".',
  };
}

function fewshot({ name, fewshot: file }: PromptChoice, questions: readonly string[]): Prompts {
  if (file === undefined)
    throw new UserError(
      `--prompt ${name}: expected the training problems that its examples are drawn from, found none. Give GSM8K's published train.jsonl: --fewshot FILE`,
    );
  const pool = loadDataset(file, "train");
  if (pool.size < FEWSHOT_EXAMPLES)
    throw new UserError(`${file}: expected at least ${FEWSHOT_EXAMPLES} problems to draw from, found ${pool.size}.`);
  const sha256 = createHash("sha256").update(readFileSync(file)).digest("hex");
  const asked = (question: string): string => `Question: ${question}\nAnswer:`;
  const texts = fewshotIndices(pool.size, questions.length).map((indices, i) => {
    const examples = indices.map((index) => pool.problem(index));
    return [...examples.map(({ question, answer }) => `${asked(question)} ${answer}`), asked(questions[i]!)].join(
      "\n\n",
    );
  });
  const published = gsm8kFiles.find((entry) => entry.name === "train.jsonl")!.sha256 === sha256;
  return {
    texts,
    sha256: sha256OfList([name, asked(""), sha256]),
    stopStrings: ["Question:", ...LM_EVAL_STOPS],
    ...(!published && { note: `${file} is not GSM8K's train.jsonl as published: the examples are not lm-eval's.` }),
  };
}

/** Token ids of a prompt. A raw text gets what the tokenizer adds to any text, as in lm-eval. */
export const promptIdsOf = (tokenizer: Tokenizer, text: Prompts["texts"][number]): Int32Array =>
  typeof text === "string" ? tokenizer.encode(text) : tokenizer.chatPrompt(text);
