/**
 * `eval` from the command line on the starter model: several actors, a kill in the middle, a run
 * directory's prompt.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readPredictions } from "../../src/eval/folder/predictions.js";
import { readEvalResult } from "../../src/eval/folder/read-results.js";
import { root, run } from "../support/run.js";

const folder = mkdtempSync(join(tmpdir(), "eval-cli-"));
afterAll(() => rmSync(folder, { recursive: true }));

const args = (out: string, ...more: string[]): string[] => {
  const asked = ["--data", "starter-test", "--limit", "24", "--samples", "2", "--max-new-tokens", "48"];
  return ["eval", "--model", join(root, "assets/starter"), ...asked, "--out", join(folder, out), ...more];
};
const predictionsOf = (out: string): string => readFileSync(join(folder, out, "predictions.jsonl"), "utf8");

describe("eval", () => {
  beforeAll(async () => {
    const { code, stderr } = await run("cli", args("whole"));
    expect(code, stderr).toBe(0);
  });

  it("writes every completion in order, and figures that follow from them", () => {
    const predictions = readPredictions(join(folder, "whole/predictions.jsonl"));
    const places = predictions.map(({ mode, index, sample }) => `${mode} ${index} ${sample}`);
    const questions = Array.from({ length: 24 }, (_, i) => i);
    expect(places).toEqual([
      ...questions.flatMap((i) => [`sampled ${i} 0`, `sampled ${i} 1`]),
      ...questions.map((i) => `greedy ${i} 0`),
    ]);
    const { sampled, greedy } = readEvalResult(join(folder, "whole"));
    const right = (mode: string) =>
      predictions.filter((p) => p.mode === mode && p.sample === 0).map((p) => Number(p.outcome === "correct"));
    expect(sampled!.correct).toEqual(right("sampled"));
    expect(greedy!.correct).toEqual(right("greedy"));
  });

  it("answers the same whatever the number of actors", async () => {
    const { code, stderr } = await run("cli", args("two", "--engines", "2", "--max-rows", "8"));
    expect(code, stderr).toBe(0);
    expect(predictionsOf("two")).toBe(predictionsOf("whole"));
  });

  it("killed in the middle, goes on where it stopped and comes to the same", async () => {
    const out = join(folder, "cut/predictions.jsonl");
    const child = spawn(process.execPath, [join(root, "dist/cli.js"), ...args("cut", "--max-rows", "4")]);
    const ended = new Promise((resolve) => child.once("exit", resolve));
    while (child.exitCode === null && !(existsSync(out) && statSync(out).size > 0)) await sleep(2);
    child.kill("SIGKILL");
    await ended;
    const { code, stderr } = await run("cli", args("cut"));
    expect(code, stderr).toBe(0);
    expect(stderr).toMatch(/cut: (going on|already evaluated), \d+ completions are there/);
    expect(predictionsOf("cut")).toBe(predictionsOf("whole"));
  });

  it("of other settings is refused", async () => {
    const { code, stderr } = await run("cli", args("whole", "--seed", "1"));
    expect(code).toBe(1);
    expect(stderr).toMatch(/holds an evaluation that differs in --seed \(42, now 1\)\. Choose another --out/);
  });
});
