/** The study file: algorithms, seeds, evaluation, and what the algorithms may differ in. */
import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import { configKeys, findKey } from "../config/keys.js";
import { loadConfig, readYaml } from "../config/load.js";
import type { RunConfig } from "../config/schema.js";
import { faultsOf, readsKey } from "../config/validate.js";
import { UserError } from "../errors.js";
import { modes } from "../eval/folder/names.js";

const name = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, "letters, digits, _ . and - (it names a directory)");
const overrides = z.record(z.string(), z.unknown());

export const studySchema = z.strictObject({
  name,
  /** Configuration files of every run, later ones win. */
  config: z.array(z.string()).min(1),
  /** Keys of every run, above the files. */
  overrides: overrides.default({}),
  /** Keys of one algorithm, above all else. Its `algo` is its name unless it says otherwise. */
  algorithms: z
    .record(name, overrides.nullable())
    .refine((algorithms) => Object.keys(algorithms).length >= 2, "at least two algorithms"),
  /** Training seeds, the same for every algorithm. */
  seeds: z
    .array(z.int().nonnegative())
    .min(2, "at least two seeds: one says nothing of an algorithm")
    .refine((seeds) => new Set(seeds).size === seeds.length, "every seed once"),
  eval: z.strictObject({
    data: z.string(),
    /** Names of prompts, as `eval --prompt` takes them; the first is the primary one. */
    prompts: z.array(name).min(1).default(["default"]),
    /** Questions taken from the beginning; null = all. */
    limit: z.int().positive().nullable().default(null),
    samples: z.int().positive().default(1),
    modes: z.array(z.enum(modes)).min(1).default(["sampled", "greedy"]),
    /** null = as in training. */
    max_new_tokens: z.int().positive().nullable().default(null),
    temperature: z.number().positive().default(1),
    seed: z.int().nonnegative().default(42),
  }),
  /** The one mode the verdict is on; fixed before anything is run. */
  primary: z.enum(modes),
  /** Keys in which algorithms may differ. Any other difference is refused. */
  allow_differences: z.array(z.string()).default([]),
});

export type StudyDefinition = z.infer<typeof studySchema>;

export interface Setting {
  readonly key: string;
  readonly values: Readonly<Record<string, unknown>>;
}

export interface Study {
  readonly definition: StudyDefinition;
  /** Training configuration of each algorithm with the first seed and no run directory. */
  readonly configs: Readonly<Record<string, RunConfig>>;
  /** What the algorithms do differently although they share the setting. */
  readonly differences: readonly Setting[];
  /** Settings that only some of them have, such as PPO's `lam`. */
  readonly own: readonly Setting[];
}

/** Reads a study file. @throws UserError for an unknown key or a difference not allowed */
export function readStudy(file: string, cwd = process.cwd()): Study {
  return resolveStudy(readYaml(file, file, "study file", "See configs/study-starter.yaml."), file, cwd);
}

/** @param yaml the parsed file, or the definition in a study.json */
export function resolveStudy(yaml: unknown, file: string, cwd = process.cwd()): Study {
  const parsed = studySchema.safeParse(yaml);
  if (!parsed.success) {
    const { eval: evaluation, ...top } = studySchema.shape;
    const keys = [...Object.keys(top), "eval", ...Object.keys(evaluation.shape).map((name) => `eval.${name}`)];
    throw new UserError(`${faultsOf(parsed.error, yaml, file, keys)}\nconfigs/study-starter.yaml is a study.`);
  }
  const definition = parsed.data;
  if (!definition.eval.modes.includes(definition.primary))
    throw new UserError(
      `${file}: primary is ${definition.primary}, but eval.modes is ${definition.eval.modes.join(", ")}. Add it there.`,
    );
  const configs = Object.fromEntries(
    Object.keys(definition.algorithms).map((algorithm) => {
      const { algo, words } = trainingWords(definition, algorithm, file);
      const loaded = loadConfig({ algo, files: definition.config, overrides: words, cwd });
      return [algorithm, { ...loaded.config, seed: definition.seeds[0]! }];
    }),
  );
  const { differences, own } = settingsOf(configs);
  refuseUnnamed(differences, definition, file);
  return { definition, configs, differences, own };
}

/** Command-line words of `launch` for an algorithm: `--key=value` for every override. */
export function trainingWords(
  { overrides: shared, algorithms }: StudyDefinition,
  algorithm: string,
  file: string,
): { algo: RunConfig["algo"]; words: string[] } {
  const { algo: said, ...special } = algorithms[algorithm] ?? {};
  for (const key of ["seed", "run_dir", "algo"])
    if (key in shared || key in special)
      throw new UserError(
        `${file}: ${key} is set by the study itself (seeds, name, algorithms). Remove it from the overrides.`,
      );
  const algo = said ?? algorithm;
  if (algo !== "grpo" && algo !== "ppo")
    throw new UserError(
      `${file}: algorithms.${algorithm}: expected algo: grpo or algo: ppo, found ${JSON.stringify(said)}.`,
    );
  return { algo, words: [...wordsOf(shared), ...wordsOf(special)] };
}

/** A section becomes its keys: `--actors` alone is another option of `launch`, their number. */
const wordsOf = (overridden: object, prefix = ""): string[] =>
  Object.entries(overridden).flatMap(([name, value]: [string, unknown]) => {
    const key = prefix + name;
    if (isSection(value)) return wordsOf(value, `${key}.`);
    const asItStands = typeof value === "string" && findKey(key.replaceAll("-", "_"))?.text;
    return `--${key}=${asItStands ? value : JSON.stringify(value)}`;
  });

const isSection = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** What has another key in GRPO and in PPO and is the same thing. */
const roles: Readonly<Record<string, (config: RunConfig) => unknown>> = {
  kl_coefficient: (c) => (c.algo === "grpo" ? c.beta : c.kl_coef),
  clip_range: (c) => (c.algo === "grpo" ? [c.epsilon, c.epsilon_high ?? c.epsilon] : [c.cliprange, c.cliprange]),
  passes_per_batch: (c) => (c.algo === "grpo" ? c.num_iterations : c.num_ppo_epochs),
  optimizer_steps_per_batch: (c) =>
    c.algo === "grpo" ? c.num_iterations * c.steps_per_generation : c.num_ppo_epochs * c.num_mini_batches,
};

const NOT_COMPARED = new Set(["algo", "seed", "run_dir"]);

/** Keys in which two configurations differ, but for those that the study sets for each run. */
export function differingKeys(a: RunConfig, b: RunConfig): string[] {
  return configKeys
    .map(({ key }) => key)
    .filter((key) => !NOT_COMPARED.has(key) && !isDeepStrictEqual(valueAt(a, key), valueAt(b, key)));
}

function settingsOf(configs: Study["configs"]): Pick<Study, "differences" | "own"> {
  const algorithms = Object.entries(configs);
  const differences: Setting[] = [];
  const own: Setting[] = [];
  const valuesOf = (of: (config: RunConfig) => unknown, among = algorithms): Record<string, unknown> =>
    Object.fromEntries(among.map(([algorithm, config]) => [algorithm, of(config)]));
  for (const [key, role] of Object.entries(roles)) {
    const values = valuesOf(role);
    if (!allEqual(values)) differences.push({ key, values });
  }
  for (const { key } of configKeys) {
    if (NOT_COMPARED.has(key)) continue;
    const readers = algorithms.filter(([, config]) => readsKey(config.algo, key));
    const values = valuesOf((config) => valueAt(config, key), readers);
    if (!allEqual(values)) differences.push({ key, values });
    else if (readers.length > 0 && readers.length < algorithms.length) own.push({ key, values });
  }
  return { differences, own };
}

function allEqual(values: Readonly<Record<string, unknown>>): boolean {
  const [first, ...others] = Object.values(values);
  return others.every((other) => isDeepStrictEqual(other, first));
}

const valueAt = (config: RunConfig, key: string): unknown =>
  key.split(".").reduce<unknown>((at, step) => (at as Record<string, unknown>)[step], config);

function refuseUnnamed(differences: readonly Setting[], { allow_differences }: StudyDefinition, file: string): void {
  const unnamed = differences.filter(({ key }) => !allow_differences.includes(key));
  if (unnamed.length > 0)
    throw new UserError(
      `${file}: expected algorithms that share every setting, found different:\n${unnamed.map((setting) => `  ${inWords(setting)}`).join("\n")}\nMake them equal under algorithms, or name them: allow_differences: [${unnamed.map(({ key }) => key).join(", ")}].`,
    );
  const stale = allow_differences.filter((key) => !differences.some((difference) => difference.key === key));
  if (stale.length > 0)
    throw new UserError(
      `${file}: allow_differences names ${stale.join(", ")}, in which the algorithms do not differ. Remove it.`,
    );
  const base = differences.find(({ key }) => key === "model.path");
  if (base !== undefined)
    throw new UserError(
      `${file}: expected one model to start from, found ${inWords(base)}: the baseline of a study is one model.`,
    );
}

/** "learning_rate: grpo 0.0001, ppo 0.00005" */
export function inWords({ key, values }: Setting): string {
  return `${key}: ${Object.entries(values)
    .map(([algorithm, value]) => `${algorithm} ${JSON.stringify(value)}`)
    .join(", ")}`;
}
