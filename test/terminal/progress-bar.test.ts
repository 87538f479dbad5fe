import { PassThrough } from "node:stream";
import { expect, test } from "vitest";
import { showProgress } from "../../src/terminal/progress-bar.js";

const lines = (options: object, updates: readonly number[]): string[] => {
  const stream = new PassThrough({ encoding: "utf8" });
  const progress = showProgress({
    name: "eval",
    total: 20,
    ...options,
    stream: stream as unknown as NodeJS.WriteStream,
  });
  for (const done of updates) progress.update(done);
  progress.stop();
  return String(stream.read() ?? "").split("\n").slice(0, -1); // prettier-ignore
};

test("without a terminal, a line for every tenth, none for what was there", () => {
  expect(lines({ present: 10 }, [10, 11, 12, 13, 20])).toEqual([
    expect.stringMatching(/^eval 12\/20 {2}ETA 0:0\d$/),
    "eval 20/20  ETA 0:00",
  ]);
  expect(lines({ total: 0 }, [0])).toEqual([]);
});

test("or at most one in a time, and one at the end", () => {
  const text = (done: number): string => `${done} of 20`;
  expect(lines({ everyMs: 60_000, text }, [1, 2, 19, 20, 20])).toEqual(["eval 20 of 20"]);
});
