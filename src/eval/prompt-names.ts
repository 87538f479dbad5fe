/**
 * Names of the prompts, apart from their texts: the command line lists them without loading
 * anything.
 */
export const promptNames = ["default", "boxed", "qwen-boxed", "lm-eval-5shot", "lm-eval-cot-zeroshot", "verl"] as const;
