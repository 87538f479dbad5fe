/** The makers' sampling settings, for `infer` and `serve` only; what we cannot do is named. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJson } from "../files.js";

const schema = z.looseObject({ do_sample: z.boolean().nullish(), temperature: z.number().nonnegative().nullish() });

const actOnSampling = /^(top_[pk]|min_p|typical_p|(epsilon|eta)_cutoff)$/;
const actOnGreedyToo =
  /^((repetition|no_repeat).*|num_beams|min_(length|new_tokens)|.*suppress_tokens|bad_words_ids|sequence_bias|stop_strings|forced_[be]os.*)$/;
const neutralAtOne = /^(top_p|typical_p|repetition_penalty|num_beams)$/;

/** Whether a setting does nothing; a forced token may be 0. */
const isOff = (name: string, value: unknown): boolean =>
  value === null ||
  (Array.isArray(value) && value.length === 0) ||
  (value === (neutralAtOne.test(name) ? 1 : 0) && !name.startsWith("forced"));

export type GenerationSettings = ReturnType<typeof readGenerationConfig>;

/** @param folder model folder; without a generation_config.json, plain sampling */
export function readGenerationConfig(folder: string) {
  const file = join(folder, "generation_config.json");
  const json = existsSync(file) ? readJson(file, schema, "Mend the file or delete it.") : {};
  const asked = (names: RegExp): string[] =>
    Object.entries(json).flatMap(([name, value]) =>
      names.test(name) && !isOff(name, value) ? [`${name} ${JSON.stringify(value)}`] : [],
    );
  const notAppliedGreedy = asked(actOnGreedyToo);
  return {
    /** 0 where do_sample is false, else the file's temperature, else 1. */
    temperature: json.do_sample === false ? 0 : (json.temperature ?? 1),
    /** Settings of the file that are not applied, such as "top_p 0.8". */
    notApplied: [...asked(actOnSampling), ...notAppliedGreedy],
    /** Those of them that matter at temperature 0. */
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
