import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { cli } from "../../src/cli.js";
import { type EvalSettings, sha256OfList } from "../../src/eval/folder/settings.js";
import { openEvalFolder } from "../../src/eval/folder/write-results.js";
import { fewshotIndices } from "../../src/eval/fewshot.js";
import { type Prediction, judge } from "../../src/eval/folder/predictions.js";
import { promptNames } from "../../src/eval/folder/names.js";
import { type PromptChoice, makePrompts } from "../../src/eval/prompts.js";
import { findStop } from "../../src/generate/text-stream.js";
import { readEvalResult } from "../../src/eval/folder/read-results.js";
import { summarize } from "../../src/eval/summary.js";
import { findTarget } from "../../src/eval/target.js";

const root = mkdtempSync(join(tmpdir(), "eval-"));
afterAll(() => rmSync(root, { recursive: true }));
let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(root, "case-"));
});

describe("prompts", () => {
  const of = (name: PromptChoice["name"], rest: Partial<PromptChoice> = {}) =>
    makePrompts({ name, system: null, suffix: "", ...rest }, ["1+1?", "2+2?"]);

  it("are what their owners write", () => {
    const user = (content: string) => ({ role: "user", content });
    const box = "Please reason step by step, and put your final answer within \\boxed{}.";
    expect(of("default").texts[0]).toEqual([user("1+1?")]);
    expect(of("default", { system: "S", suffix: " Go." }).texts[1]).toEqual([
      { role: "system", content: "S" },
      user("2+2? Go."),
    ]);
    expect(of("boxed").texts[0]).toEqual([{ role: "system", content: box }, user("1+1?")]);
    expect(of("qwen-boxed").texts[0]).toEqual([
      { role: "system", content: "You are a helpful assistant." },
      user(`1+1?\n${box}`),
    ]);
    expect(of("verl").texts[0]).toEqual([
      user('1+1? Let\'s think step by step and output the final answer after "####".'),
    ]);
    expect(of("lm-eval-cot-zeroshot")).toMatchObject({
      texts: ["Q: 1+1?\nA: Let's think step by step.", "Q: 2+2?\nA: Let's think step by step."],
      stopStrings: ["Q:", "</s>", "<|im_end|>"],
    });
  });

  it("of five examples: drawn for each question, separated by blank lines", () => {
    const file = join(folder, "train.jsonl");
    const lines = Array.from({ length: 40 }, (_, i) =>
      JSON.stringify({ question: `q${i}`, answer: `a${i}\n#### ${i}` }),
    );
    writeFileSync(file, lines.join("\n"));
    const prompts = of("lm-eval-5shot", { fewshot: file });
    const drawn = fewshotIndices(40, 2);
    expect(prompts.texts).toEqual(
      ["1+1?", "2+2?"].map(
        (question, i) =>
          `${drawn[i]!.map((k) => `Question: q${k}\nAnswer: a${k}\n#### ${k}\n\n`).join("")}Question: ${question}\nAnswer:`,
      ),
    );
    expect(prompts.stopStrings).toEqual(["Question:", "</s>", "<|im_end|>"]);
    expect(prompts.note).toMatch(/not GSM8K's train.jsonl as published/);
    appendFileSync(file, `\n${lines[0]}`);
    expect(of("lm-eval-5shot", { fewshot: file }).sha256).not.toBe(prompts.sha256);
    expect(() => of("lm-eval-5shot")).toThrow(/--fewshot FILE/);
    writeFileSync(file, lines[0]!);
    expect(() => of("lm-eval-5shot", { fewshot: file })).toThrow(/at least 5 problems/);
  });

  it("have an identity that tells them apart and leaves out the questions", () => {
    const names = promptNames.filter((name) => name !== "lm-eval-5shot");
    expect(new Set(names.map((name) => of(name).sha256)).size).toBe(names.length);
    expect(of("default", { suffix: "!" }).sha256).not.toBe(of("default").sha256);
    expect(makePrompts({ name: "verl", system: null, suffix: "" }, ["other"]).sha256).toBe(of("verl").sha256);
  });

  it("examples are those of Python's random.Random(1234).sample(range(n), 5)", () => {
    // CPython 3.11.7
    expect(fewshotIndices(7473, 4)).toEqual([
      [6374, 3610, 957, 61, 742],
      [7462, 6610, 4769, 286, 5501],
      [5677, 687, 806, 6279, 2905],
      [1939, 142, 252, 6461, 129],
    ]);
    expect(fewshotIndices(7, 3)).toEqual([
      [6, 3, 0, 4, 5],
      [6, 4, 0, 5, 3],
      [6, 2, 1, 0, 3],
    ]);
  });

  it("a completion ends at the first stop string", () => {
    expect(findStop("a b Q: c </s>", ["</s>", "Q:"])).toBe(4);
    expect(findStop("a b", ["</s>", "Q:"])).toBeUndefined();
  });
});

describe("the model", () => {
  const run = (steps: number[], config: object = { algo: "ppo", seed: 7 }): string => {
    for (const step of steps)
      mkdirSync(join(folder, `checkpoints/step-${String(step).padStart(6, "0")}`), { recursive: true });
    writeFileSync(join(folder, "config.json"), JSON.stringify(config));
    return folder;
  };

  it("of a run directory is its last checkpoint, or the one named", () => {
    run([50, 100], { algo: "ppo", seed: 7, data: { system_prompt: "S", prompt_suffix: " Go." } });
    const found = { trainSeed: 7, prompt: { system: "S", suffix: " Go." } };
    expect(findTarget(folder)).toEqual({ model: join(folder, "checkpoints/step-000100"), ...found });
    expect(findTarget(folder, 50)).toEqual({ model: join(folder, "checkpoints/step-000050"), ...found });
    const checkpoint = join(folder, "checkpoints/step-000050/");
    expect(findTarget(checkpoint)).toEqual({ model: checkpoint, ...found });
    expect(() => findTarget(folder, 60)).toThrow(/expected the checkpoint of step 60, found those of 50, 100/);
  });

  it("of a run without checkpoints, or a step of a plain model, is refused", () => {
    expect(() => findTarget(run([]))).toThrow(/expected a checkpoint, found none/);
    expect(() => findTarget("Qwen/Qwen2.5-3B-Instruct", 5)).toThrow(/expected --model to be a run directory/);
  });

  it("that is no run has no training seed", () => {
    run([], { model_type: "qwen2" });
    expect(findTarget(folder)).toEqual({ model: folder, trainSeed: null, prompt: null });
    expect(findTarget("Qwen/Qwen2.5-3B-Instruct").trainSeed).toBeNull();
  });
});

describe("an evaluation folder", () => {
  const settings: EvalSettings = {
    version: 1,
    model: "m",
    data: "d",
    n: 2,
    prompt: "default",
    questions_sha256: sha256OfList(["q"]),
    prompt_sha256: sha256OfList(["p"]),
    temperature: 1,
    max_new_tokens: 64,
    samples: 2,
    seed: 42,
    train_seed: null,
    weights_sha256: sha256OfList(["w"]),
    device: "cpu",
    dtype: "float32",
  };
  const predicted = (index: number, sample: number, mode: Prediction["mode"] = "sampled"): Prediction =>
    judge({
      mode,
      index,
      id: `t/${index}`,
      sample,
      question: "q",
      answer: "#### 1",
      text: "#### 1",
      finish_reason: "stop",
      tokens: 3,
    });
  const all = [predicted(0, 0), predicted(0, 1), predicted(1, 0), predicted(1, 1)];
  const open = (changes: Partial<EvalSettings> = {}, overwrite = false, out = folder) =>
    openEvalFolder(out, { ...settings, ...changes }, ["sampled"], overwrite);

  it("goes on with whole questions: a torn line and a question with a sample missing are asked again", () => {
    const first = open();
    first.seconds.modes.sampled = 3;
    first.append(all.slice(0, 3));
    appendFileSync(join(folder, "predictions.jsonl"), '{"mode":');
    expect(() => readEvalResult(folder)).toThrow(/an unfinished evaluation/);
    const second = open({ model: "elsewhere/m" });
    expect(second.kept).toEqual(all.slice(0, 2));
    expect(second.seconds.modes.sampled).toBe(3);
    second.append(all.slice(2));
    expect(open().kept).toEqual(all);
  });

  it("finished, holds metrics.json, which compare reads, and ordered predictions; nothing is left to do", () => {
    const evaluation = open();
    evaluation.append(all.toReversed());
    evaluation.finish(all, { sampled: summarize(all, 2, 1) });
    expect(readEvalResult(folder)).toMatchObject({
      n: 2,
      prompt: "default",
      weights_sha256: settings.weights_sha256,
      file: folder,
      sampled: { correct: [1, 1] },
    });
    expect(readEvalResult(join(folder, "metrics.json")).file).toBe(folder);
    expect(existsSync(join(folder, "unfinished.json"))).toBe(false);
    expect(open()).toMatchObject({ finished: true, kept: all });
  });

  it.each([
    ["unfinished", false],
    ["finished", true],
  ])("%s, of other settings, is refused, naming all that differs; --overwrite begins anew", (_, finished) => {
    const evaluation = open();
    evaluation.append(all);
    if (finished) evaluation.finish(all, { sampled: summarize(all, 2, 1) });
    expect(() => open({ temperature: 0.7, prompt: "verl", weights_sha256: sha256OfList(["v"]) })).toThrow(
      /differs in the model's weights \(--model\) \(\w{12}, now \w{12}\), the prompt's name \(--prompt\) \(default, now verl\), --temperature \(1, now 0\.7\)\. Choose/,
    );
    expect(() => openEvalFolder(folder, settings, ["sampled", "greedy"], false)).toThrow(
      /--modes \(sampled, now sampled,greedy\)/,
    );
    expect(open({ temperature: 0.7 }, true).kept).toEqual([]);
    expect(readFileSync(join(folder, "predictions.jsonl"), "utf8")).toBe("");
  });

  it("of another device or number type is refused; one from before there was a choice is of the CPU, in float32", () => {
    const evaluation = open();
    evaluation.append(all);
    expect(() => open({ device: "cuda", dtype: "float16" })).toThrow(
      /differs in --device \(cpu, now cuda\), --dtype \(float32, now float16\)\. Choose/,
    );
    evaluation.finish(all, { sampled: summarize(all, 2, 1) });
    const file = join(folder, "metrics.json");
    const { device: _, dtype: __, ...older } = JSON.parse(readFileSync(file, "utf8")) as EvalSettings;
    writeFileSync(file, JSON.stringify(older));
    expect(readEvalResult(folder)).toMatchObject({ device: "cpu", dtype: "float32" });
    expect(open().finished).toBe(true);
    expect(() => open({ device: "cuda" })).toThrow(/--device \(cpu, now cuda\)/);
  });

  it("is not made over a file, nor over predictions of unknown settings", () => {
    const file = join(folder, "eval.json");
    writeFileSync(file, "{}");
    expect(() => open({}, false, file)).toThrow(/found a file/);
    writeFileSync(join(folder, "predictions.jsonl"), "");
    expect(() => open()).toThrow(/found predictions.jsonl without/);
    expect(open({}, true).kept).toEqual([]);
  });
});

describe("cli eval", () => {
  it.each<[string[], RegExp]>([
    [
      ["--prompt", "verl", "--system", "S"],
      /--system and --prompt-suffix are of --prompt default, found --prompt verl/,
    ],
    [["--fewshot", "f.jsonl"], /--fewshot is of --prompt lm-eval-5shot, found --prompt default/],
    [["--prompt", "lm-eval-5shot"], /Give GSM8K's published train.jsonl: --fewshot FILE/],
    [["--checkpoint", "5"], /expected --model to be a run directory/],
    [["--max-new-tokens", "5000"], /the prompt has \d+ tokens; with --max-new-tokens 5000/],
  ])("refuses %j before anything is written", async (options, message) => {
    const out = join(folder, "out");
    const args = ["eval", "--model", "assets/starter", "--data", "starter", "--limit", "2", "--out", out, ...options];
    await expect(cli(args)).rejects.toThrow(message);
    expect(existsSync(out)).toBe(false);
  });
});
