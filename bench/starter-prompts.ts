/** The starter's problems as both sides get them. */
import { readModelConfig } from "../src/model/config.js";
import { loadTokenizer } from "../src/model/tokenizer.js";
import { starterProblem } from "../src/tasks/starter.js";
import { repositoryFile } from "./side.js";

export const starterModel = repositoryFile("assets/starter");

export interface StarterPrompts {
  readonly stopIds: readonly number[];
  readonly padId: number;
  /** Token ids of `count` training problems from number `first` on. */
  readonly prompts: (first: number, count: number) => number[][];
}

export function starterPrompts(): StarterPrompts {
  const tokenizer = loadTokenizer(starterModel, readModelConfig(starterModel));
  return {
    stopIds: tokenizer.stopIds,
    padId: tokenizer.padId,
    prompts: (first, count) =>
      Array.from({ length: count }, (_, i) => [
        ...tokenizer.chatPrompt([{ role: "user", content: starterProblem("train", first + i).question }]),
      ]),
  };
}
