/** lm-eval 0.4.13's few-shot choice: samplers.py `ContextSampler`, Python's `random.sample`. */
import MersenneTwister from "mersenne-twister";

const LM_EVAL_SEED = 1234;
export const FEWSHOT_EXAMPLES = 5;

/** @param pool how many training problems @returns their indices [questions][FEWSHOT_EXAMPLES] */
export function fewshotIndices(pool: number, questions: number): number[][] {
  // Python seeds with an array of the seed's 32-bit words
  const twister = new MersenneTwister([LM_EVAL_SEED]);
  return Array.from({ length: questions }, () => pythonSample(twister, pool, FEWSHOT_EXAMPLES));
}

/** CPython 3.11 Lib/random.py `Random.sample(range(n), k)` for k ≤ 5. */
function pythonSample(twister: MersenneTwister, n: number, k: number): number[] {
  // its measure of when a list is cheaper than a set
  if (n <= 21) {
    const left = Array.from({ length: n }, (_, i) => i);
    return Array.from({ length: k }, (_, i) => {
      const j = randomBelow(twister, n - i);
      const drawn = left[j]!;
      left[j] = left[n - i - 1]!;
      return drawn;
    });
  }
  const drawn = new Set<number>();
  while (drawn.size < k) drawn.add(randomBelow(twister, n));
  return [...drawn];
}

/** `Random._randbelow_with_getrandbits`: bits are drawn until they are below n, in [1, 2^32). */
function randomBelow(twister: MersenneTwister, n: number): number {
  const unused = Math.clz32(n);
  let value: number;
  do value = twister.random_int() >>> unused;
  while (value >= n);
  return value;
}
