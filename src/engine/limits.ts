/** Limits of the engine that the memory plan counts with. Loads nothing. */

/** Most attention scores of one prefill run, over heads and prompts: 64 MiB as float32. */
export const PREFILL_SCORES = 2 ** 24;
