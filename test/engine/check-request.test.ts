import { expect, test } from "vitest";
import { checkRequest } from "../../src/engine/check-request.js";
import type { ModelConfig } from "../../src/model/config.js";

const shape = { maxPositions: 64, vocabSize: 9 } as ModelConfig;
const check = (temperature: number) => () => {
  const sampling = { temperature, maxNewTokens: 4, stopIds: [] };
  const request = { requestId: "r", promptIds: Int32Array.of(1), groupSize: 1, seed: 0n, sampling };
  checkRequest(request, shape, { threads: 1, maxRows: 4, segmentLength: 8 });
};

test.each([0, 1e-6, 1e-3, 1, 100])("temperature %d can be divided by", (temperature) => {
  expect(check(temperature)).not.toThrow();
});

test.each([1e-42, 1e-38, 1e-7, -1, NaN, Infinity])("temperature %d is refused", (temperature) => {
  expect(check(temperature)).toThrow(/temperature is .*, expected 0 .* or a number ≥ 1e-6/);
});
