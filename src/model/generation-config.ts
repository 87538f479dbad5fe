/** The makers' sampling settings, for `infer` and `serve` only; what we cannot do is named. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJson } from "../files.js";

const schema = z.looseObject({ do_sample: z.boolean().nullish(), temperature: z.number().nonnegative().nullish() });

/** Settings that act on sampling alone, with the value at which they do nothing. */
const ofSampling = { top_p: 1, top_k: 0, min_p: 0, typical_p: 1, epsilon_cutoff: 0, eta_cutoff: 0 };

/** Settings that act on greedy decoding too. */
const ofEither = {
  repetition_penalty: 1,
  no_repeat_ngram_size: 0,
  num_beams: 1,
  min_length: 0,
  min_new_tokens: 0,
  suppress_tokens: null,
  begin_suppress_tokens: null,
  bad_words_ids: null,
  sequence_bias: null,
  stop_strings: null,
  forced_bos_token_id: null,
  forced_eos_token_id: null,
};

export interface GenerationSettings {
  /** 0 where do_sample is false, else the file's temperature, else 1. */
  readonly temperature: number;
  /** Settings of the file that are not applied, such as "top_p 0.8". */
  readonly notApplied: readonly string[];
  /** Those of them that matter at temperature 0. */
  readonly notAppliedGreedy: readonly string[];
}

/** @param folder model folder; without a generation_config.json, plain sampling */
export function readGenerationConfig(folder: string): GenerationSettings {
  const file = join(folder, "generation_config.json");
  const json = existsSync(file) ? readJson(file, schema, "Mend the file or delete it.") : {};
  const asked = (settings: Readonly<Record<string, unknown>>): string[] =>
    Object.entries(settings).flatMap(([name, neutral]) => {
      const value = (json as Record<string, unknown>)[name] ?? neutral;
      const isEmpty = Array.isArray(value) && value.length === 0;
      return value === neutral || isEmpty
        ? []
        : [`${name} ${typeof value === "number" ? value : JSON.stringify(value)}`];
    });
  const notAppliedGreedy = asked(ofEither);
  return {
    temperature: json.do_sample === false ? 0 : (json.temperature ?? 1),
    notApplied: [...asked(ofSampling), ...notAppliedGreedy],
    notAppliedGreedy,
  };
}

/** One line for stderr, or undefined where everything is applied. */
export function notAppliedNote(generation: GenerationSettings, temperature = 1): string | undefined {
  const names = temperature === 0 ? generation.notAppliedGreedy : generation.notApplied;
  if (names.length === 0) return undefined;
  const does = temperature === 0 ? "decoding is greedy" : "sampling is by temperature alone";
  return `note: generation_config.json asks for ${names.join(", ")}, which the sampler does not have: ${does}.`;
}
