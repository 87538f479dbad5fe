/** The list of configuration keys, read off the schema, for error messages and `--help`. */
import { distance } from "fastest-levenshtein";
import { z } from "zod";
import { runConfigSchema } from "./schema.js";

/** The part of JSON Schema that `z.toJSONSchema` emits for our schema. */
interface SchemaNode {
  type?: string | string[];
  description?: string;
  default?: unknown;
  enum?: unknown[];
  anyOf?: SchemaNode[];
  properties?: Record<string, SchemaNode>;
  items?: SchemaNode;
  minimum?: number;
  exclusiveMinimum?: number;
  maximum?: number;
}

export interface ConfigKey {
  /** Dotted name, for example "lora.r". */
  readonly key: string;
  /** What a value must be, in words. */
  readonly expected: string;
  /** Whether a flag's text is the value as it stands; of a nullable key `null` is null. */
  readonly text: false | "text" | "nullable";
  readonly default: unknown;
  readonly description: string;
}

const root = z.toJSONSchema(runConfigSchema, { io: "input" }) as SchemaNode;

/** Every key that holds a value, in the order of the schema. */
export const configKeys: readonly ConfigKey[] = leaves(root, "");
/** Names of the sections ("model", "lora", …), which hold keys and no value of their own. */
export const sectionNames: readonly string[] = Object.entries(root.properties ?? {}).flatMap(([name, node]) =>
  node.properties ? [name] : [],
);

function leaves(node: SchemaNode, prefix: string): ConfigKey[] {
  return Object.entries(node.properties ?? {}).flatMap(([name, child]) => {
    const key = prefix + name;
    if (child.properties) return leaves(child, `${key}.`);
    const text = textKind(child);
    return [{ key, expected: inWords(child), text, default: child.default, description: child.description ?? "" }];
  });
}

function textKind({ type, anyOf, enum: named }: SchemaNode): ConfigKey["text"] {
  const types = anyOf?.map((node) => node.type) ?? [type].flat();
  if (named !== undefined || !types.includes("string")) return false;
  return types.length === 1 ? "text" : types.length === 2 && types.includes("null") ? "nullable" : false;
}

/** A key that holds a value; undefined for a section. */
export const findKey = (key: string): ConfigKey | undefined => configKeys.find((known) => known.key === key);

/** What the value at `path` must be, in words; list elements are reached by their index. */
export function expectedAt(path: readonly PropertyKey[]): string {
  let node: SchemaNode | undefined = root;
  for (const step of path) node = typeof step === "number" ? node?.items : node?.properties?.[String(step)];
  return node ? inWords(node) : "a known key";
}

function inWords(node: SchemaNode): string {
  if (node.enum) return `one of ${node.enum.map((value) => JSON.stringify(value)).join(", ")}`;
  if (node.anyOf) return node.anyOf.map(inWords).join(" or ");
  if (Array.isArray(node.type)) return node.type.map((type) => inWords({ ...node, type })).join(" or ");
  switch (node.type) {
    case "integer":
    case "number":
      return `${node.type === "integer" ? "an integer" : "a number"}${rangeInWords(node)}`;
    case "boolean":
      return "true or false";
    case "array":
      return `a non-empty list, each ${inWords(node.items ?? {})}`;
    case "object":
      return `a mapping with the keys ${Object.keys(node.properties ?? {}).join(", ")}`;
    case "null":
      return "null";
    default:
      return "a string";
  }
}

function rangeInWords({ type, minimum, exclusiveMinimum, maximum }: SchemaNode): string {
  // zod bounds integers by the safe range; that bound tells a user nothing
  const upper = maximum === Number.MAX_SAFE_INTEGER ? undefined : maximum;
  if (minimum !== undefined && upper !== undefined) return ` from ${minimum} to ${upper}`;
  if (minimum !== undefined && minimum !== Number.MIN_SAFE_INTEGER) return ` >= ${minimum}`;
  if (exclusiveMinimum !== undefined)
    return type === "integer" ? ` >= ${exclusiveMinimum + 1}` : ` > ${exclusiveMinimum}`;
  return "";
}

/** Names that other trainers use for what has another name here. */
const otherNames: Readonly<Record<string, string>> = {
  lr: "learning_rate",
  output_dir: "run_dir",
  model_name_or_path: "model.path",
  dataset_name: "data.train",
  per_device_train_batch_size: "generation_batch_size",
  gradient_accumulation_steps: "tokens_per_microbatch",
  response_length: "max_completion_length",
  total_episodes: "max_steps",
  num_train_epochs: "max_steps",
  vllm_importance_sampling_cap: "importance_sampling_cap",
  num_actors: "actors.num",
};

/** The valid name closest to an unknown one; a key typed without its section finds its home. */
export function nearestKey(unknown: string, also: readonly string[] = []): string {
  const known = otherNames[unknown];
  if (known !== undefined) return known;
  return nearestOf(unknown, [...configKeys.map(({ key }) => key), ...sectionNames, ...also]);
}

export function nearestOf(unknown: string, candidates: readonly string[]): string {
  const lastSegment = (key: string) => key.slice(key.lastIndexOf(".") + 1);
  const cost = (key: string) =>
    Math.min(distance(unknown, key), distance(lastSegment(unknown), lastSegment(key)) + 1.5);
  return candidates.reduce((best, key) => (cost(key) < cost(best) ? key : best));
}

/** Help text: a line or two for each key, with its default. */
export function describeConfig(): string {
  const lines = configKeys.map(({ key, expected, default: value, description }) => {
    const name = `  ${key} = ${JSON.stringify(value)}`;
    const meaning = description === "" ? expected : `${description} (${expected})`;
    return name.length < 44 ? `${name.padEnd(44)}${meaning}` : `${name}\n${" ".repeat(44)}${meaning}`;
  });
  return [
    "Configuration keys (in YAML files, or as --key=value; default shown):",
    ...lines,
    "",
    "Precedence: defaults < configs/<algo>_config.yaml < each --config FILE, left to right < --key=value.",
  ].join("\n");
}
