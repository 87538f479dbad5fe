/** The makers' sampling settings, for `infer` and `serve` only; what we cannot do is named. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError, messageOf } from "../errors.js";

const schema = z.looseObject({ do_sample: z.boolean().nullish(), temperature: z.number().nonnegative().nullish() });

/** Settings that would change the distribution, with the value at which they do nothing. */
const notApplied: Readonly<Record<string, number>> = {
  top_p: 1,
  top_k: 0,
  min_p: 0,
  typical_p: 1,
  repetition_penalty: 1,
  no_repeat_ngram_size: 0,
};

export interface GenerationSettings {
  /** 0 where do_sample is false, else the file's temperature, else 1. */
  readonly temperature: number;
  /** Settings of the file that are not applied, such as "top_p 0.8". */
  readonly notApplied: readonly string[];
}

/** @param folder model folder; without a generation_config.json, plain sampling */
export function readGenerationConfig(folder: string): GenerationSettings {
  const file = join(folder, "generation_config.json");
  if (!existsSync(file)) return { temperature: 1, notApplied: [] };
  let json: z.infer<typeof schema>;
  try {
    json = schema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (error) {
    throw new UserError(
      `${file}: expected a generation config, found something else (${messageOf(error).split("\n")[0]}). Mend the file or delete it.`,
    );
  }
  return {
    temperature: json.do_sample === false ? 0 : (json.temperature ?? 1),
    notApplied: Object.entries(notApplied).flatMap(([name, neutral]) => {
      const value = json[name];
      return typeof value === "number" && value !== neutral ? [`${name} ${value}`] : [];
    }),
  };
}

/** One line for stderr, or undefined where everything is applied. */
export function notAppliedNote({ notApplied }: GenerationSettings): string | undefined {
  if (notApplied.length === 0) return undefined;
  return `note: generation_config.json asks for ${notApplied.join(", ")}, which the sampler does not have: sampling is by temperature alone.`;
}
