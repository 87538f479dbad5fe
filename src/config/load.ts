/**
 * From files and flags to one resolved configuration, which holds absolute paths.
 * Precedence: schema defaults < configs/<algo>_config.yaml < each --config FILE, left to right <
 * --dotted.key=value. Without --config, configs/starter.yaml is taken. Relative paths are looked
 * for in the current directory, then this package; model.path may also be a hub id.
 */
import { existsSync } from "node:fs";
import { isAbsolute, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { parseDocument } from "yaml";
import { UserError, messageOf } from "../errors.js";
import { readText } from "../files.js";
import { type ConfigKey, findKey, nearestKey, sectionNames } from "./keys.js";
import { runConfigSchema, type RunConfig } from "./schema.js";
import { checkLayer, crossCheck, unusedKeyNote } from "./validate.js";
import { resolveModelFolder } from "../model/hub.js";

/** The package's own folder, whether this file runs from src/ or dist/. */
export const packageRoot = fileURLToPath(new URL("../../", import.meta.url));

export interface LoadOptions {
  readonly algo?: RunConfig["algo"] | undefined;
  /** `--config` arguments, in order. */
  readonly files?: readonly string[];
  /** Remaining command-line words: `--key=value`, or `--key` `value`. */
  readonly overrides?: readonly string[];
  /** Names of the program's own flags, to be suggested for a mistyped one. */
  readonly flags?: readonly string[];
  readonly cwd?: string;
}

export interface LoadedConfig {
  readonly config: RunConfig;
  /** The YAML files read, lowest precedence first. */
  readonly files: readonly string[];
  /** One line each, to be shown before the run starts. */
  readonly notes: readonly string[];
}

type Layer = Record<string, unknown>;

/** @throws UserError for unreadable files, unknown keys, wrong types, and keys that contradict */
export function loadConfig(options: LoadOptions): LoadedConfig {
  const cwd = options.cwd ?? process.cwd();
  const usesStarter = (options.files ?? []).length === 0;
  const files = (usesStarter ? ["configs/starter.yaml"] : options.files!).map((file) => resolveInput(file, cwd));
  const fileLayers = files.map((file) => readLayer(file, cwd));
  const overrides = parseOverrides(options.overrides ?? [], options.flags);

  const named = [...fileLayers, ...overrides.map(({ layer }) => layer)].findLast(
    (layer) => layer["algo"] !== undefined,
  );
  const algo = options.algo ?? (named?.["algo"] as RunConfig["algo"] | undefined) ?? "grpo";
  const algoFile = join(packageRoot, "configs", `${algo}_config.yaml`);

  const merged = [readLayer(algoFile, cwd), ...fileLayers, ...overrides.map(({ layer }) => layer), { algo }].reduce(
    merge,
    {},
  );
  const config = resolvePaths(runConfigSchema.parse(merged), cwd);
  const notes = crossCheck(config);
  for (const { key } of overrides) {
    const note = unusedKeyNote(key, algo);
    if (note !== undefined) notes.push(note);
  }
  return { config, files: [algoFile, ...files], notes: usesStarter ? [...starterNotice(), ...notes] : notes };
}

/** Keys that may change when a run is resumed: how long and where it runs, not what is learnt. */
const RESUMABLE =
  /^(model\.path|model\.gradient_checkpointing|tokens_per_microbatch|max_steps|eval_steps|save_steps|save_total_limit|journal\..*|actors\..*|learner\..*|selftest\..*|transport\..*)$/;

/** The stored configuration with a few overrides. @throws UserError if one makes it another run */
export function resumeConfig(stored: RunConfig, words: readonly string[], flags?: readonly string[]) {
  const overrides = parseOverrides(words, flags);
  const merged = runConfigSchema.parse(overrides.map(({ layer }) => layer).reduce(merge, { ...stored }));
  const config = resolvePaths(merged, process.cwd());
  for (const { key, word } of overrides)
    if (!RESUMABLE.test(key) && !isDeepStrictEqual(valueAt(config, key), valueAt(stored, key)))
      throw new UserError(
        `${word}: ${key} cannot change when a run is resumed, because the run would be another one. Start a new run, or change only max_steps, eval_steps, save_steps, save_total_limit, tokens_per_microbatch, model.gradient_checkpointing, journal.*, actors.*, learner.*, selftest.*, transport.*, or model.path where the same model has moved.`,
      );
  const changes = overrides
    .filter(({ key }) => !isDeepStrictEqual(valueAt(config, key), valueAt(stored, key)))
    .map(({ key }) => `${key}: ${String(valueAt(stored, key))} before, ${String(valueAt(config, key))} from now on`);
  return { config, notes: [...changes, ...crossCheck(config)] };
}

const valueAt = (config: RunConfig, key: string): unknown =>
  key.split(".").reduce<unknown>((section, name) => (section as Record<string, unknown> | undefined)?.[name], config);

/** First lines of a run that was started without --config. */
function starterNotice(): string[] {
  const lines = [
    "No --config given: using configs/starter.yaml, a small model and generated problems that train on any machine.",
  ];
  const large = "configs/qwen2.5-3b.yaml";
  if (existsSync(join(packageRoot, large))) lines.push(`For Qwen2.5-3B-Instruct on GSM8K: --config ${large}`);
  return lines;
}

/** Reads and checks one YAML file. */
function readLayer(file: string, cwd: string): Layer {
  const where = shortPath(file, cwd);
  const places = [...new Set([cwd, resolve(packageRoot)])].join(" and in ");
  const layer = readYaml(file, where, "configuration file", `Relative paths are looked for in ${places}.`) ?? {};
  // a section whose lines are all commented out reads as null
  if (isMapping(layer)) for (const name of sectionNames) if (layer[name] === null) delete layer[name];
  checkLayer(layer, where);
  return layer as Layer;
}

/** @param cure of a missing file @throws UserError for a file that is no YAML */
export function readYaml(file: string, where: string, expected: string, cure: string): unknown {
  try {
    return parseYaml(readText(file));
  } catch (error) {
    if (error instanceof UserError) throw error;
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    const found = missing ? `nothing. ${cure}` : `one that cannot be read: ${messageOf(error)}`;
    throw new UserError(`${where}: expected a YAML ${expected}, found ${found}`, { cause: error });
  }
}

/** @throws Error also for what the library only warns of: a tag that it does not know */
function parseYaml(text: string): unknown {
  const document = parseDocument(text);
  for (const fault of [...document.errors, ...document.warnings]) throw fault;
  return document.toJS();
}

interface Override {
  readonly key: string;
  /** As typed. */
  readonly word: string;
  readonly layer: Layer;
}

/** Parses `--key=value` and `--key value`; dashes in keys count as underscores. */
function parseOverrides(words: readonly string[], flags: readonly string[] = []): Override[] {
  const overrides: Override[] = [];
  for (let i = 0; i < words.length; i++) {
    const match = /^--([^=]+)(?:=(.*))?$/s.exec(words[i]!);
    if (match === null)
      throw new UserError(`"${words[i]}" is not understood: expected --key=value or a flag (see --help).`);
    const key = match[1]!.replaceAll("-", "_");
    const known = findKey(key);
    if (known === undefined && !sectionNames.includes(key)) explainUnknown(match[1]!, key, flags);
    const hasValue = match[2] !== undefined || (words[i + 1] !== undefined && !words[i + 1]!.startsWith("--"));
    if (!hasValue) throw new UserError(`--${key} needs a value: --${key}=…`);
    const text = match[2] ?? words[++i]!;
    const word = `--${key}=${text}`;
    const layer = nest(key.split("."), valueOf(text, word, known?.text));
    checkLayer(layer, word, flags);
    overrides.push({ key, word, layer });
  }
  return overrides;
}

/** A text is taken as it stands, for YAML would cut it at ` #`; any other value is YAML. */
function valueOf(text: string, word: string, kind: ConfigKey["text"] = false): unknown {
  if (kind !== false) return kind === "nullable" && text === "null" ? null : text;
  try {
    return parseYaml(text);
  } catch (error) {
    throw new UserError(`${word}: the value is not valid YAML: ${messageOf(error)}`, { cause: error });
  }
}

/** Always throws. */
function explainUnknown(typed: string, key: string, flags: readonly string[]): never {
  const nearest = nearestKey(key, flags);
  // the schema check words the message, unless a flag is nearer than any key
  if (!flags.includes(nearest)) checkLayer(nest(key.split("."), null), `--${typed}`);
  throw new UserError(`--${typed}: unknown option; the nearest valid one is --${nearest}.`);
}

const nest = (path: readonly string[], value: unknown): Layer =>
  path.reduceRight((inner, name) => ({ [name]: inner }), value) as Layer;

const isMapping = (value: unknown): value is Layer =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Later layers win; mappings merge, lists and scalars are replaced whole. */
function merge(below: Layer, above: Layer): Layer {
  const result = { ...below };
  for (const [name, value] of Object.entries(above)) {
    const old = result[name];
    result[name] = isMapping(old) && isMapping(value) ? merge(old, value) : value;
  }
  return result;
}

function resolvePaths(config: RunConfig, cwd: string): RunConfig {
  const dataFile = (source: string) => (source === "starter" ? source : resolveInput(source, cwd));
  const [first, ...rest] = config.reward.functions.map((fn) => ({
    ...fn,
    name: isModulePath(fn.name) ? resolveInput(fn.name, cwd) : fn.name,
  }));
  return {
    ...config,
    run_dir: config.run_dir === null ? null : resolve(cwd, config.run_dir),
    model: { ...config.model, path: resolveModelFolder(config.model.path, resolveInput(config.model.path, cwd)) },
    data: { ...config.data, train: dataFile(config.data.train), validation: dataFile(config.data.validation) },
    reward: { ...config.reward, functions: [first!, ...rest] },
  };
}

/** A reward function named by a path looks like one; everything else is a built-in name. */
const isModulePath = (name: string): boolean => /[/\\]|\.[cm]?js$/.test(name);

/** Looks in the current directory, then the package; a missing file stays as the user meant it. */
function resolveInput(path: string, cwd: string): string {
  if (isAbsolute(path)) return path;
  const inPackage = join(packageRoot, path);
  return !existsSync(resolve(cwd, path)) && existsSync(inPackage) ? inPackage : resolve(cwd, path);
}

/** A path as the user would write it: relative when it lies below the current directory. */
export function shortPath(path: string, cwd = process.cwd()): string {
  const short = relative(cwd, path);
  return short === "" || short.startsWith("..") ? path : short;
}
