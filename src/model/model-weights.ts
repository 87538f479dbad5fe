/** The weights of a model folder, by the layout of its decoder. */
import { UserError } from "../errors.js";
import type { ModelConfig } from "./config.js";
import { type LayoutEntry, layoutSize, weightLayout } from "./layout.js";
import { type StoredTensor, readSafetensors, readWeight, sameValues } from "./safetensors/read.js";

/** Reads weights straight into a packed buffer. @throws UserError as modelTensors */
export function loadPacked(
  folder: string,
  shape: ModelConfig,
  into: Float32Array = new Float32Array(layoutSize(weightLayout(shape))),
): Float32Array {
  for (const { entry, stored } of modelTensors(folder, shape))
    readWeight(stored, into.subarray(entry.offset, entry.offset + entry.size));
  return into;
}

/** Reads the parameters of a model folder one at a time: the whole need not be in memory. */
export function weightReader(folder: string, shape: ModelConfig): (entry: LayoutEntry) => Float32Array {
  const stored = new Map(modelTensors(folder, shape).map((tensor) => [tensor.entry.name, tensor.stored]));
  return ({ name }) => readWeight(stored.get(name)!);
}

/** A folder's tensors on disk, in layout order. @throws UserError listing all that do not fit */
export function modelTensors(folder: string, shape: ModelConfig): { entry: LayoutEntry; stored: StoredTensor }[] {
  const layout = weightLayout(shape);
  const stored = readSafetensors(folder);
  const problems = layoutProblems(layout, stored, shape.tieWordEmbeddings);
  if (problems.length > 0) {
    const shown = problems.slice(0, 10).join("\n  ");
    const more = problems.length > 10 ? `\n  … and ${problems.length - 10} more` : "";
    const cure = stored.has("embed_tokens.weight")
      ? 'The names lack "model.", as those of a decoder without its head do: save the model by AutoModelForCausalLM.'
      : "Use the config.json and safetensors files of one and the same model.";
    throw new UserError(`${folder}: the weights do not fit config.json:\n  ${shown}${more}\n${cure}`);
  }
  const [head, embedding] = [stored.get("lm_head.weight"), stored.get("model.embed_tokens.weight")];
  if (shape.tieWordEmbeddings && head !== undefined && !sameValues(head, embedding!))
    throw new UserError(
      `${folder}: config.json ties lm_head.weight to the embedding, expected equal values, found others. ` +
        `Set tie_word_embeddings to false: transformers uses such a head as it is stored.`,
    );
  return layout.map((entry) => ({ entry, stored: stored.get(entry.name)! }));
}

function layoutProblems(
  layout: readonly LayoutEntry[],
  stored: ReadonlyMap<string, StoredTensor>,
  tied: boolean,
): string[] {
  const problems: string[] = [];
  const known = new Set(layout.map((entry) => entry.name));
  for (const { name, shape } of layout) {
    const found = stored.get(name);
    if (found === undefined) problems.push(`${name}: expected [${shape.join(", ")}], found no such tensor`);
    else if (found.shape.join() !== shape.join())
      problems.push(`${name}: expected [${shape.join(", ")}], found [${found.shape.join(", ")}]`);
  }
  for (const { name, shape } of stored.values()) {
    // Old llama checkpoints store the RoPE frequencies, which are a function of config.json.
    if (known.has(name) || (tied && name === "lm_head.weight") || name.endsWith(".rotary_emb.inv_freq")) continue;
    problems.push(`${name}: expected no such tensor, found [${shape.join(", ")}]`);
  }
  return problems;
}
