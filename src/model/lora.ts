/** LoRA adapters as PEFT has them (Hu et al. 2021, eq. 3): y = W x + (lora_alpha / r) · B A x. */
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.js";
import { issuesOf, readJson, writeJson } from "../files.js";
import type { ModelConfig } from "./config.js";
import { copyTokenizerFiles } from "./folder.js";
import { layoutSize, packShapes, tensorsIn, type LayoutEntry } from "./layout.js";
import { readSafetensors, readWeight } from "./safetensors/read.js";
import { writeSafetensors, type TensorToWrite } from "./safetensors/write.js";

/** What PEFT's `get_peft_model_state_dict` puts before every name. */
const PEFT_PREFIX = "base_model.model.";

export interface LoraSpec {
  readonly r: number;
  readonly lora_alpha: number;
  readonly lora_dropout: number;
  readonly target_modules: readonly string[];
}

/** `<module>.lora_A.weight` [r, in] and `<module>.lora_B.weight` [out, r], in the model's order. */
export function loraLayout(shape: ModelConfig, lora: Pick<LoraSpec, "r" | "target_modules">): LayoutEntry[] {
  const { hiddenSize: H, intermediateSize: I, headDim } = shape;
  const [q, kv] = [shape.numHeads * headDim, shape.numKvHeads * headDim];
  /** [in, out] by module. */
  const modules: Record<string, readonly [string, number, number]> = {
    q_proj: ["self_attn", H, q],
    k_proj: ["self_attn", H, kv],
    v_proj: ["self_attn", H, kv],
    o_proj: ["self_attn", q, H],
    gate_proj: ["mlp", H, I],
    up_proj: ["mlp", H, I],
    down_proj: ["mlp", I, H],
  };
  const shapes: [string, number[]][] = [];
  for (let layer = 0; layer < shape.numLayers; layer++) {
    for (const [module, [part, inputs, outputs]] of Object.entries(modules)) {
      if (!lora.target_modules.includes(module)) continue;
      const name = `model.layers.${layer}.${part}.${module}`;
      shapes.push([`${name}.lora_A.weight`, [lora.r, inputs]], [`${name}.lora_B.weight`, [outputs, lora.r]]);
    }
  }
  return packShapes(shapes);
}

/** The two matrices of each adapted module; `target` is the weight of the base that they change. */
export function adapterPairs(layout: readonly LayoutEntry[]) {
  // loraLayout puts each module's A and B side by side.
  return layout.flatMap((a, i) =>
    i % 2 === 1 ? [] : [{ target: a.name.replace(".lora_A.", "."), a, b: layout[i + 1]! }],
  );
}

/** adapter_model.safetensors under PEFT's names. @param packed adapters in `layout`'s order */
export function adapterTensors(layout: readonly LayoutEntry[], packed: Float32Array): TensorToWrite[] {
  return tensorsIn(packed, layout).map((tensor) => ({ ...tensor, name: PEFT_PREFIX + tensor.name }));
}

/** Writes a PEFT adapter folder with the tokenizer. @param packed in `loraLayout` order */
export function saveAdapterFolder(
  target: string,
  baseFolder: string,
  layout: readonly LayoutEntry[],
  packed: Float32Array,
  { r, lora_alpha, lora_dropout, target_modules }: LoraSpec,
): void {
  mkdirSync(target, { recursive: true });
  copyTokenizerFiles(target, baseFolder);
  const config = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    // found from any working directory
    base_model_name_or_path: resolve(baseFolder),
    r,
    lora_alpha,
    lora_dropout,
    target_modules,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    use_rslora: false,
    use_dora: false,
  };
  writeJson(join(target, "adapter_config.json"), config);
  writeSafetensors(join(target, "adapter_model.safetensors"), adapterTensors(layout, packed));
}

/** What a setting has when it asks for nothing. */
const isOff = (value: unknown): boolean => !value || (typeof value === "object" && Object.keys(value).length === 0);

/** A module, by the end of its name: PEFT may also name layers, or a regular expression. */
const targetModule = z
  .string()
  .regex(
    /^((self_attn\.)?[qkvo]_proj|(mlp\.)?(gate|up|down)_proj)$/,
    "expected q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj or down_proj, of every layer",
  )
  .transform((name) => name.slice(name.indexOf(".") + 1));

const anything = z.unknown().optional();

/** What our forward computes; a setting that is not listed must ask for nothing. */
const adapterConfigSchema = z
  .object({
    peft_type: z.literal("LORA"),
    r: z.int().positive(),
    lora_alpha: z.number().positive(),
    lora_dropout: z.number().min(0).default(0),
    base_model_name_or_path: z.string().nullish(),
    target_modules: z
      .array(targetModule, "expected a list of modules")
      .nonempty()
      .transform((names) => [...new Set(names)]),
    bias: z.literal("none").default("none"),
    // These set initial adapters alone; others may change the base.
    init_lora_weights: z
      .union(
        [z.boolean(), z.enum(["gaussian", "orthogonal"])],
        "expected an initialisation that keeps the base as it is",
      )
      .nullish(),
    // These change nothing by themselves.
    task_type: anything,
    auto_mapping: anything,
    revision: anything,
    inference_mode: anything,
    peft_version: anything,
    megatron_core: anything,
    qalora_group_size: anything,
  })
  .catchall(z.unknown().refine(isOff, "expected none, because it is not supported"));

/**
 * Reads a PEFT adapter folder into [layoutSize] values. @param layout `loraLayout` of the base
 * @throws UserError for damage, another kind of adapter, other settings than `lora`, another base
 */
export function loadAdapter(folder: string, layout: readonly LayoutEntry[], lora: LoraSpec): Float32Array {
  checkAdapterConfig(folder, lora);
  const file = join(folder, "adapter_model.safetensors");
  const cure = "Give the adapter's own adapter_config.json and base model, or save the adapter again with PEFT.";
  const stored = readSafetensors(file);
  const packed = new Float32Array(layoutSize(layout));
  for (const { name, shape, offset, size } of layout) {
    const tensor = stored.get(PEFT_PREFIX + name);
    if (tensor === undefined || tensor.shape.join() !== shape.join()) {
      const found = tensor === undefined ? "no such tensor" : `[${tensor.shape.join(", ")}]`;
      throw new UserError(`${file}: ${PEFT_PREFIX}${name}: expected [${shape.join(", ")}], found ${found}. ${cure}`);
    }
    readWeight(tensor, packed.subarray(offset, offset + size));
  }
  const known = new Set(layout.map(({ name }) => PEFT_PREFIX + name));
  const surplus = [...stored.keys()].filter((name) => !known.has(name));
  if (surplus.length > 0)
    throw new UserError(
      `${file}: expected ${layout.length} tensors, found ${surplus.length} more (${surplus.slice(0, 3).join(", ")} …). ` +
        cure,
    );
  return packed;
}

/** @returns its LoRA settings, and the base as PEFT wrote it @throws UserError unless plain LoRA */
export function readAdapterConfig(folder: string): { lora: LoraSpec; base: string | null } {
  const file = join(folder, "adapter_config.json");
  const json = readJson(file, z.unknown(), "Point to an adapter folder.", "PEFT's adapter config");
  const parsed = adapterConfigSchema.safeParse(json);
  if (!parsed.success)
    throw new UserError(
      `${file}: expected a plain LoRA adapter, found one with other settings:\n${issuesOf(parsed.error)}\n` +
        `Train it again without them.`,
    );
  const { r, lora_alpha, lora_dropout, target_modules, base_model_name_or_path: base } = parsed.data;
  return { lora: { r, lora_alpha, lora_dropout, target_modules }, base: base ?? null };
}

function checkAdapterConfig(folder: string, lora: LoraSpec): void {
  const { lora: found } = readAdapterConfig(folder);
  const differences = (["r", "lora_alpha", "target_modules"] as const).flatMap((key) => {
    const [expected, has] = [lora, found].map((spec) => [spec[key]].flat().map(String).toSorted().join(", "));
    return has === expected ? [] : [`lora.${key}: expected ${expected}, found ${has}`];
  });
  if (differences.length > 0)
    throw new UserError(
      `${join(folder, "adapter_config.json")}: ${differences.join("; ")}. Give the run the adapter's values.`,
    );
}
