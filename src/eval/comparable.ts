/** Whether results can be compared: of the same questions, asked alike, and paired by seed. */
import { UserError } from "../errors.js";
import { shellWord } from "../terminal/format.js";
import { type EvalResult, modesOf } from "./folder/read-results.js";
import { comparable, differencesOf } from "./folder/settings.js";

/** What must be equal for question i of two results to be one question, asked in one way. */
const sameness = comparable.filter((key) => !/^(version|weights_sha256|seed|device)$/.test(key));

/** @throws UserError naming two files and everything in which they differ */
export function refuseDifferent(results: readonly EvalResult[]): void {
  const [first, ...others] = results.map((result) => ({ ...result, modes: modesOf(result).join(",") }));
  const { data, n, prompt, temperature, max_new_tokens: tokens, samples, seed, modes } = first!;
  const asked = `--data ${shellWord(data)} --limit ${n} --prompt ${prompt} --modes ${modes} --samples ${samples} --temperature ${temperature} --max-new-tokens ${tokens} --seed ${seed}`;
  for (const other of others) {
    const differences = differencesOf(first!, other, sameness, " and ");
    if (differences.length > 0)
      throw new UserError(
        `${first!.file} and ${other.file}: expected results of the same questions, asked alike; found different: ${differences.join(", ")}. ` +
          `Ask the second as the first, also by --system, --prompt-suffix or --fewshot if those were given:\n  node dist/cli.js eval --model ${shellWord(other.model)} ${asked} --out NEW`,
      );
  }
}

/** @throws UserError for unequal lengths, fewer than two seeds, a seed twice, or a mixed pair */
export function refuseUnpaired(a: readonly EvalResult[], b: readonly EvalResult[]): void {
  if (a.length !== b.length) {
    const seeds = (side: readonly EvalResult[]): string => side.map((r) => r.train_seed ?? "?").join(", ");
    throw new UserError(
      `--a and --b: expected the same seeds on both sides, found ${a.length} files (training seeds ${seeds(a)}) and ${b.length} (${seeds(b)}): a seed is missing. Add its file, or leave its partner out.`,
    );
  }
  if (a.length < 2)
    throw new UserError(
      `--a and --b: expected at least 2 seeds on each side, found ${a.length}. One seed says nothing of an algorithm; for two checkpoints use "compare A B".`,
    );
  for (const [side, results] of Object.entries({ a, b }))
    for (const [i, result] of results.entries()) {
      const isSame = (other: EvalResult): boolean => other.weights_sha256 === result.weights_sha256;
      const twin = results
        .slice(0, i)
        .find((other) => isSame(other) || (other.train_seed !== null && other.train_seed === result.train_seed));
      if (twin !== undefined)
        throw new UserError(
          `--${side}: expected every seed once; ${twin.file} and ${result.file} are of the same ${isSame(twin) ? "weights" : `training seed ${result.train_seed}`}. Remove one.`,
        );
    }
  for (const [i, result] of a.entries()) {
    const partner = b[i]!;
    if (result.train_seed !== null && partner.train_seed !== null && result.train_seed !== partner.train_seed)
      throw new UserError(
        `--a and --b: expected the same seeds in the same order; pair ${i + 1} is ${result.file} (training seed ${result.train_seed}) and ${partner.file} (training seed ${partner.train_seed}). Reorder them.`,
      );
  }
}
