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
  if (!Number.isInteger(groupSize) || groupSize < 1) refuse(`groupSize is ${groupSize}, expected an integer ≥ 1`);
  if (groupSize > options.maxRows)
    refuse(
      `groupSize ${groupSize} exceeds the ${options.maxRows} rows of a batch. Raise the row limit or use smaller groups.`,
    );
  if (!(sampling.temperature >= 0 && Number.isFinite(sampling.temperature)))
    refuse(`temperature is ${sampling.temperature}, expected a number ≥ 0`);
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
