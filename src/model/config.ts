/** The architecture of a decoder, read from a Hugging Face `config.json`. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../errors.js";
import { checkedJson, issuesOf, readJson } from "../files.js";
import { z } from "zod";
import { layoutSize, weightLayout } from "./layout.js";
import type { RopeScaling } from "./rotary.js";
import { hubCache, isHubId } from "./hub.js";

export type ModelConfig = ReturnType<typeof parseModelConfig>;

const rope = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().positive().optional(),
});
/** Scaled frequencies are those of whole heads. */
const whole = { factor: z.number().min(1), partial_rotary_factor: z.literal(1).optional() };
const linear = z.looseObject(whole);
const llama3 = z.looseObject({
  ...whole,
  low_freq_factor: z.number().positive(),
  high_freq_factor: z.number().positive(),
  original_max_position_embeddings: z.int().positive(),
});
/** Far above every model: a damaged file must not be allocated. */
const size = z
  .int()
  .positive()
  .max(1 << 21);
const MAX_PARAMETERS = 1e12;

const raw = z.looseObject({
  model_type: z.enum(["qwen2", "llama"]),
  quantization_config: z.looseObject({ quant_method: z.string().optional() }).nullish(),
  vocab_size: size,
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: z.int().positive().max(1000),
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  max_position_embeddings: z.int().positive().default(32768),
  rms_norm_eps: z.number().positive().default(1e-6),
  rope_theta: z.number().positive().optional(),
  rope_scaling: rope.nullish(),
  rope_parameters: rope.nullish(),
  original_max_position_embeddings: z.int().positive().optional(),
  use_sliding_window: z.boolean().optional(),
  tie_word_embeddings: z.boolean().default(false),
  hidden_act: z.string().default("silu"),
  attention_bias: z.boolean().optional(),
  mlp_bias: z.boolean().optional(),
});

const OTHER_MODEL = "Without its scaling this is another model: choose one that has none.";
const ROPE_CURES: Readonly<Record<string, string>> = {
  dynamic: "It acts beyond max_position_embeddings alone: remove it, and longer sequences are refused.",
  yarn: "If it was added for longer contexts, as Qwen2.5's pages describe, remove it; else choose another model.",
};

/** @throws UserError for a scaling that is not supported, or lacks one of its numbers */
function scalingOf(type: string, where: string, settings: object): RopeScaling | undefined {
  if (type === "default") return undefined;
  if (type === "linear") return { type, factor: checkedJson(settings, linear, where).factor };
  if (type !== "llama3")
    throw new UserError(
      `${where} is not supported, expected linear, llama3 or none. ${ROPE_CURES[type] ?? OTHER_MODEL}`,
    );
  const found = checkedJson(settings, llama3, where);
  return {
    type,
    factor: found.factor,
    lowFreqFactor: found.low_freq_factor,
    highFreqFactor: found.high_freq_factor,
    originalMaxPositions: found.original_max_position_embeddings,
  };
}

/** @param where named in errors @throws UserError for an architecture that is not supported */
export function parseModelConfig(json: unknown, where: string) {
  const refuse = (what: string, mend: string): never => {
    throw new UserError(`${where}: ${what}. ${mend}`);
  };
  // first, for other architectures have other keys
  const { model_type: type } = Object(json) as { model_type?: unknown };
  if (typeof type === "string" && type !== "qwen2" && type !== "llama")
    refuse(`model_type is "${type}", expected "qwen2" or "llama"`, "Choose a model of one of these architectures.");
  const parsed = raw.safeParse(json);
  if (!parsed.success) throw new UserError(`${where}: not a model config: ${issuesOf(parsed.error)}`);
  const c = parsed.data;
  if (c.quantization_config != null)
    refuse(
      `the model is quantised (${c.quantization_config.quant_method ?? "by quantization_config"}), expected F32, F16 or BF16 weights`,
      "Use the unquantised model that it was made from.",
    );
  // transformers 5 writes rope_parameters, older releases rope_theta and rope_scaling, which wins.
  const rotary = c.rope_scaling ?? c.rope_parameters;
  const ropeType = rotary?.rope_type ?? rotary?.type ?? "default";
  const original = c.original_max_position_embeddings ?? rotary?.["original_max_position_embeddings"];
  const ropeScaling = scalingOf(ropeType, `${where}: RoPE scaling "${ropeType}"`, {
    ...rotary,
    original_max_position_embeddings: original ?? c.max_position_embeddings,
  });
  if (c.use_sliding_window === true)
    refuse("use_sliding_window is true, which is not supported", "Set it to false if your sequences fit the window.");
  if (c.hidden_act !== "silu")
    refuse(`hidden_act is "${c.hidden_act}", expected "silu"`, "Choose a model with SwiGLU layers.");
  if (c.model_type === "llama" && (c.attention_bias === true || c.mlp_bias === true))
    refuse("attention_bias / mlp_bias of llama models are not supported", "Choose a model without them.");
  const kv = c.num_key_value_heads ?? c.num_attention_heads;
  if (c.num_attention_heads % kv !== 0)
    refuse(
      `num_attention_heads (${c.num_attention_heads}) is not a multiple of num_key_value_heads (${kv})`,
      "The file is damaged.",
    );
  const headDim = c.head_dim ?? c.hidden_size / c.num_attention_heads;
  if (!Number.isInteger(headDim) || headDim % 2 !== 0)
    refuse(`the head dimension (${headDim}) is not an even integer`, "The file is damaged.");
  const config = {
    modelType: c.model_type,
    vocabSize: c.vocab_size,
    hiddenSize: c.hidden_size,
    intermediateSize: c.intermediate_size,
    numLayers: c.num_hidden_layers,
    numHeads: c.num_attention_heads,
    numKvHeads: kv,
    headDim,
    /** Longest sequence (prompt + completion) in tokens. */
    maxPositions: c.max_position_embeddings,
    rmsNormEps: c.rms_norm_eps,
    ropeTheta: rotary?.rope_theta ?? c.rope_theta ?? 10_000,
    ...(ropeScaling !== undefined && { ropeScaling }),
    /** True when the LM head is the embedding matrix. */
    tieWordEmbeddings: c.tie_word_embeddings,
    /** True when q, k and v projections have a bias (qwen2). */
    qkvBias: c.model_type === "qwen2",
  };
  const parameters = layoutSize(weightLayout(config));
  if (parameters > MAX_PARAMETERS)
    refuse(`its sizes make ${parameters} parameters, expected at most ${MAX_PARAMETERS}`, "The file is damaged.");
  return config;
}

/** Reads `<folder>/config.json`. @throws UserError when it is missing or unsupported */
export function readModelConfig(folder: string): ModelConfig {
  if (!existsSync(folder) && isHubId(folder))
    throw new UserError(
      `${folder}: expected a model folder or a model of the hub in the cache, found neither a folder of this name nor the model in ${hubCache()}. ` +
        `Check the path, or download the model: node dist/cli.js download-model ${folder}`,
    );
  const file = join(folder, "config.json");
  const json = readJson(
    file,
    z.unknown(),
    "Point model.path at a model folder, or name a model of the hub whole, as OWNER/NAME: node dist/cli.js download-model OWNER/NAME",
    "a Hugging Face model config",
  );
  return parseModelConfig(json, file);
}
