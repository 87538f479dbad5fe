/** Names that the command line lists, in a file of their own, so that `--help` loads no more. */

export const modes = ["sampled", "greedy"] as const;
export type Mode = (typeof modes)[number];

export const promptNames = ["default", "boxed", "qwen-boxed", "lm-eval-5shot", "lm-eval-cot-zeroshot", "verl"] as const;
export type PromptName = (typeof promptNames)[number];
