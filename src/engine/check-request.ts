import { UserError } from "../errors.js";
import type { ModelConfig } from "../model/config.js";
import type { EngineOptions, GenerateRequest } from "./engine-types.js";

/** @throws UserError for a request that cannot be served */
export function checkRequest(request: GenerateRequest, shape: ModelConfig, options: EngineOptions): void {
  const { promptIds, groupSize, sampling, forced } = request;
  const refuse = (what: string): never => {
    throw new UserError(`request ${request.requestId}: ${what}`);
  };
  if (promptIds.length === 0) refuse("the prompt is empty, expected at least one token");
  if (!Number.isInteger(groupSize) || groupSize < 1) refuse(`num_generations is ${groupSize}, expected an integer ≥ 1`);
  if (groupSize > options.maxRows)
    refuse(
      `num_generations ${groupSize} exceeds the ${options.maxRows} rows of a batch. Raise the row limit or ask for fewer.`,
    );
  const { temperature } = sampling;
  // logits divided by less exceed float32
  if (!(temperature === 0 || (temperature >= 1e-6 && Number.isFinite(temperature))))
    refuse(`temperature is ${temperature}, expected 0 (the most probable token each time) or a number ≥ 1e-6`);
  if (forced !== undefined && forced.length !== groupSize)
    refuse(`${forced.length} forced completions for a group of ${groupSize}`);
  if (forced === undefined && !(Number.isInteger(sampling.maxNewTokens) && sampling.maxNewTokens >= 1))
    refuse(`maxNewTokens is ${sampling.maxNewTokens}, expected an integer ≥ 1`);
  const maxNewTokens = forced === undefined ? sampling.maxNewTokens : Math.max(...forced.map((ids) => ids.length));
  if (promptIds.length + maxNewTokens > shape.maxPositions)
    refuse(
      `a prompt of ${promptIds.length} tokens and ${maxNewTokens} new ones exceed the model's context of ` +
        `${shape.maxPositions}. Shorten the prompt or lower the number of new tokens.`,
    );
  for (const ids of [promptIds, ...(forced ?? [])]) {
    const bad = ids.find((id) => id < 0 || id >= shape.vocabSize);
    if (bad !== undefined) refuse(`token id ${bad} is outside the vocabulary of ${shape.vocabSize}`);
  }
}
