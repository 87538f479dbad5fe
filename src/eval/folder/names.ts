/** Names that the command line lists; here, apart from what they stand for, to load nothing else. */

export const modes = ["sampled", "greedy"] as const;
export type Mode = (typeof modes)[number];

export const promptNames = ["default", "boxed", "qwen-boxed", "lm-eval-5shot", "lm-eval-cot-zeroshot", "verl"] as const;
export type PromptName = (typeof promptNames)[number];
