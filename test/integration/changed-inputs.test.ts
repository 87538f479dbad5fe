/** A resumed training finds its inputs as it left them, or says which of them changed. */
import { createHash } from "node:crypto";
import { cpSync, existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { listCheckpoints } from "../../src/run/checkpoint.js";
import { readIncidents } from "../../src/run/incidents.js";
import { starterProblem } from "../../src/tasks/starter.js";
import {
  type Ended,
  cleanUp,
  iterationsOf,
  livingMembers,
  reason,
  run,
  start,
  starter,
  temporary,
  unrunnable,
  until,
} from "../support/run.js";

afterAll(cleanUp);

const problems = (from: number): string =>
  Array.from({ length: 8 }, (_, i) => `${JSON.stringify(starterProblem("train", from + i))}\n`).join("");

/** Sets another byte somewhere in the weights of a model folder. */
function changeWeights(folder: string): void {
  const file = join(folder, "model.safetensors");
  const bytes = readFileSync(file);
  bytes[bytes.length - 4] = bytes.at(-4)! ^ 1;
  writeFileSync(file, bytes);
}

const setSaved = (folder: string, edit: (values: Record<string, unknown>) => void): void => {
  // training_state.json is under a checksum, which an older release would have written as well
  const [file, sums] = ["training_state.json", "checksums.json"].map((name) => join(folder, name));
  const values = JSON.parse(readFileSync(file!, "utf8")) as Record<string, unknown>;
  edit(values);
  const text = JSON.stringify(values);
  writeFileSync(file!, text);
  const before = JSON.parse(readFileSync(sums!, "utf8")) as Record<string, string>;
  writeFileSync(sums!, JSON.stringify({ ...before, "training_state.json": sha256(text) }));
};
const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

describe.skipIf(unrunnable)(`a LoRA run with own data, model and reward${reason}`, { timeout: 120_000 }, () => {
  const root = temporary();
  const [runDir, model, data, reward] = ["run", "model", "data.jsonl", "reward.mjs"].map((name) =>
    join(root, name),
  ) as [string, string, string, string];
  const resume = (...args: string[]): Promise<Ended> => run("launch", ["--resume", runDir, ...args]);
  const refused = async (what: RegExp, ...args: string[]): Promise<void> => {
    const before = [iterationsOf(runDir), readFileSync(join(runDir, "config.json"), "utf8")];
    const { code, stderr } = await resume("--max-steps", "9", ...args);
    expect(stderr).toMatch(what);
    expect(stderr).not.toMatch(/^ {4}at /m);
    expect(code).toBe(1);
    expect([iterationsOf(runDir), before[1]]).toEqual(before);
  };

  beforeAll(async () => {
    cpSync(starter, model, { recursive: true });
    writeFileSync(data, problems(0));
    writeFileSync(join(root, "helper.mjs"), "export const value = 1;\n");
    writeFileSync(
      reward,
      'import { value } from "./helper.mjs";\nexport default (c) => c.map((_, i) => i % 2 && value);\n',
    );
    const { code, stderr } = await run("launch", [
      ...`--run-dir ${runDir} --serial --max-steps 1 --model.path=${model} --data.train=${data}`.split(" "),
      ...`--lora.enabled=true --generation_batch_size=8 --num_generations=4 --max_completion_length=8`.split(" "),
      "--eval.num_problems=2",
      "--eval.greedy=false",
      `--reward.functions=[{name: ${reward}}]`,
    ]);
    expect(code, stderr).toBe(0);
  }, 60_000);

  it("names a reward whose helper was edited", async () => {
    writeFileSync(join(root, "helper.mjs"), "export const value = 2;\n");
    await refused(/the reward module .*reward\.mjs: expected sha256 \w{12}, found \w{12}/);
    writeFileSync(join(root, "helper.mjs"), "export const value = 1;\n");
  });

  it("takes its model from where it was moved, not another one in its place", async () => {
    const [moved, other] = [join(root, "moved"), join(root, "other")];
    renameSync(model, moved);
    cpSync(moved, other, { recursive: true });
    changeWeights(other);
    await refused(/Point model\.path at a model folder/);
    await refused(/the base model's weights \(.*other\): expected sha256/, `--model.path=${other}`);
    const { code, stderr } = await resume("--max-steps", "2", `--model.path=${moved}`);
    expect(code, stderr).toBe(0);
    expect(iterationsOf(runDir)).toEqual([1, 2]);
  });

  it("names other rows and other frozen weights, and goes on where that is accepted", async () => {
    writeFileSync(data, problems(100));
    changeWeights(join(root, "moved"));
    await refused(/the base model's weights.*; data\.train .*--accept-changed-inputs/s);
    const { code, stdout, stderr } = await resume("--max-steps", "3", "--accept-changed-inputs");
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/Changed inputs were accepted: the base model's weights .*data\.train/);
    expect(readIncidents(runDir).map(({ message }) => message)).toEqual([expect.stringMatching(/were accepted/)]);
    // what was accepted is what the next session expects
    const next = await resume("--max-steps", "4");
    expect(next.code, next.stderr).toBe(0);
    expect(iterationsOf(runDir)).toEqual([1, 2, 3, 4]);
  });

  it("goes on from a checkpoint of an earlier release, and says that nothing was compared", async () => {
    setSaved(join(runDir, "checkpoints/step-000004"), (values) => delete values["inputs"]);
    const { code, stdout, stderr } = await resume("--max-steps", "5");
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/earlier release: whether .* have changed cannot be told/);
  });
});

describe.skipIf(unrunnable || !existsSync("/proc/self/cmdline"))(`a learner that died${reason}`, () => {
  it("is not started again on other data", { timeout: 120_000 }, async () => {
    const root = temporary();
    const [runDir, data] = [join(root, "run"), join(root, "data.jsonl")];
    writeFileSync(data, problems(0));
    const launched = start("launch", [
      ...`--run-dir ${runDir} --max-steps 100000 --save_steps=1 --data.train=${data} --generation_batch_size=8`.split(
        " ",
      ),
      ...`--num_generations=4 --max_completion_length=8 --eval.num_problems=2 --eval.greedy=false`.split(" "),
    ]);
    await until(() => listCheckpoints(runDir).some((step) => step >= 2));
    writeFileSync(data, problems(100));
    const isLearner = (pid: number): boolean =>
      readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("learner/main.js");
    process.kill(livingMembers(launched.pid).find(isLearner)!, "SIGKILL");
    const { code, stdout, stderr } = await launched.ended;
    expect(code, stdout).toBe(1);
    expect(stdout).toMatch(/Going on from the last checkpoint/);
    expect(stderr).toMatch(/data\.train .*expected sha256 \w{12}, found \w{12}.*--accept-changed-inputs/);
  });
});

describe.skipIf(unrunnable)(`sft --resume${reason}`, { timeout: 120_000 }, () => {
  const root = temporary();
  const [out, data, model] = [join(root, "out"), join(root, "data.jsonl"), join(root, "model")];
  const sft = (...args: string[]): Promise<Ended> =>
    run("cli", ["sft", "--model", model, "--data", data, "--out", out, "--batch-size", "2", ...args]);

  beforeAll(async () => {
    cpSync(starter, model, { recursive: true });
    writeFileSync(data, problems(0));
    const { code, stderr } = await sft("--max-steps", "2");
    expect(code, stderr).toBe(0);
  }, 60_000);

  it.each([
    [["--max-steps", "4", "--batch-size", "4"], /--batch-size: expected 2, .*found 4/],
    [["--max-steps", "4", "--learning-rate", "1"], /--learning-rate: expected 0\.001, .*found 1/],
    [["--max-steps", "4", "--data", "starter"], /--data \(starter\): expected sha256 \w{12}, found/],
    [["--max-steps", "1"], /--max-steps 1: expected at least the 2 steps that .* has done/],
  ])("refuses %j by name", async (args, message) => {
    const { code, stderr } = await sft("--resume", ...args);
    expect(stderr).toMatch(message);
    expect(code).toBe(1);
  });

  it("refuses --accept-changed-inputs alone", async () => {
    const { code, stderr } = await sft("--accept-changed-inputs", "--out", join(root, "new"));
    expect(stderr).toMatch(/expected --resume beside it/);
    expect(code).toBe(1);
  });

  it("says that all steps were done, and goes on with data that was accepted", async () => {
    const again = await sft("--resume", "--max-steps", "2");
    expect(again.stderr).toMatch(/all 2 steps were done before; raise --max-steps/);
    expect(again.code).toBe(0);
    writeFileSync(data, problems(100));
    const { code, stderr } = await sft("--resume", "--max-steps", "3", "--accept-changed-inputs");
    expect(stderr).toMatch(/Changed inputs were accepted: --data /);
    expect(code).toBe(0);
    expect(existsSync(join(out, "checkpoints/step-000003"))).toBe(true);
  });
});
