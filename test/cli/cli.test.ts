import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { cli, createProgram } from "../../src/cli.js";
import { modelOf } from "../../src/cli/options.js";
import { runConfigSchema } from "../../src/config/schema.js";
import { guarded, packageVersion } from "../../src/entry.js";
import { UserError } from "../../src/errors.js";
import { launch } from "../../src/launch.js";
import { checkpointOf } from "../../src/run/checkpoint.js";
import { checkpointFolder } from "../../src/run/paths.js";

let stdout = "";
let stderr = "";
beforeEach(() => {
  stdout = stderr = "";
  vi.spyOn(process.stdout, "write").mockImplementation((text) => ((stdout += String(text)), true));
  vi.spyOn(process.stderr, "write").mockImplementation((text) => ((stderr += String(text)), true));
  return () => vi.restoreAllMocks();
});
/** Exit code of a command line, told as the entry points tell it. */
const run = (main: (argv: string[]) => Promise<number>, line: string) => {
  const argv = line.split(" ").filter((word) => word !== "");
  return guarded(() => main(argv), argv.includes("--debug"));
};

describe("cli", () => {
  test("train is launch, its help and its errors too", async () => {
    for (const line of ["train --help", "train -h", "help train"]) {
      stdout = "";
      expect(await run(cli, line)).toBe(0);
      expect(stdout, line).toMatch(/^Usage: launch --algo grpo\|ppo/);
    }
    expect(await run(cli, "train --learning_rat=1")).toBe(1);
    expect(stderr).toMatch(/^error: .*learning_rate/);
    expect(await run(cli, "train --max-steps 3 --seed 5 --dry-run")).toBe(0);
    expect(stdout).toMatch(/"seed": 5/);
  });

  test("--help lists every command and loads none of their libraries", async () => {
    expect(await run(cli, "--help")).toBe(0);
    for (const { name } of createProgram().commands.map((command) => ({ name: command.name() })))
      expect(stdout).toContain(name);
    expect(stdout).toMatch(
      /setup[\s\S]*infer[\s\S]*logprobs[\s\S]*sft[\s\S]*prepare-starter[\s\S]*eval[\s\S]*trajectories/,
    );
    // static imports of the entry points' modules: only what parsing needs
    const source = (file: string) => readFileSync(new URL(`../../src/${file}`, import.meta.url), "utf8");
    const heavy =
      /^import (?!type).*from "(onnxruntime-node|@tensorflow\/[^"]+|zeromq|@huggingface\/[^"]+|\.\.?\/learner\/[^"]+|\.\.?\/actors\/[^"]+)"/m;
    const files = readdirSync(new URL("../../src/cli", import.meta.url));
    expect(files.length).toBeGreaterThan(15);
    for (const file of ["cli.ts", "launch.ts", ...files.map((name) => `cli/${name}`)])
      expect(source(file)).not.toMatch(heavy);
    // a command's own file loads its job when it runs
    const light = /^(node:.*|commander|\.\/options\.js|\.\/on-device\.js|\.\.\/errors\.js|.*\/names\.js)$/;
    for (const file of files.filter((name) => name !== "on-device.ts"))
      for (const [, from] of source(`cli/${file}`).matchAll(/^import (?!type).*from "([^"]+)"/gm))
        expect(from, file).toMatch(light);
  });

  test("--version is the package's", async () => {
    expect(await run(cli, "--version")).toBe(0);
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
      version: string;
    };
    expect(stdout).toBe(`${version}\n`);
  });

  test("--help fits 80 columns, and no word is broken", () => {
    const wide = createProgram()
      .configureOutput({ getOutHelpWidth: () => 1_000 })
      .helpInformation();
    const narrow = createProgram()
      .configureOutput({ getOutHelpWidth: () => 80 })
      .helpInformation();
    for (const line of narrow.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
    expect(narrow.split(/\s+/)).toEqual(wide.split(/\s+/));
  });

  test.each([
    ["-h", /^Usage: finellama \[options\]/],
    ["help", /^Usage: finellama \[options\]/],
    ["help infer", /^Usage: finellama infer /],
    ["infer -h", /^Usage: finellama infer /],
    ["eval -h", /^Usage: finellama eval /],
    ["export --help", /^Usage: finellama export /],
  ])("%j prints a text of help", async (line, text) => {
    expect(await run(cli, line)).toBe(0);
    expect(stdout).toMatch(text);
    expect(stderr).toBe("");
  });

  test("of a run directory, a command takes the last checkpoint; any other model as it is named", async () => {
    const runDir = mkdtempSync(join(tmpdir(), "run-"));
    writeFileSync(join(runDir, "config.json"), JSON.stringify(runConfigSchema.parse({})));
    await expect(modelOf(runDir)).rejects.toThrow(/expected a checkpoint, found none. Let the run write one/);
    for (const step of [2, 10]) mkdirSync(checkpointFolder(runDir, step), { recursive: true });
    expect(await modelOf(runDir)).toBe(checkpointFolder(runDir, 10));
    expect(checkpointOf(runDir, 2)).toBe(checkpointFolder(runDir, 2));
    expect(() => checkpointOf(runDir, 3)).toThrow(/expected the checkpoint of step 3, found those of 2, 10/);
    writeFileSync(join(runDir, "config.json"), JSON.stringify({ model_type: "qwen2" }));
    for (const model of [runDir, "Qwen/Qwen2.5-3B-Instruct", "/nowhere"]) expect(await modelOf(model)).toBe(model);
    rmSync(runDir, { recursive: true });
  });

  test.each([
    ["", /^Usage: finellama/],
    ["serve m --port 65536", /'65536' is invalid. Expected a whole number from 0 to 65535.\n$/],
    ["serve m --port -1", /'-1' is invalid. Expected a whole number from 0 to 65535.\n$/],
    ["serve m --port 1e3", /Expected a whole number from 0 to 65535.\n$/],
    ["infr", /^error: unknown command 'infr'.*infer/s],
    ["infer --prompt hi", /^error: infer: expected a model\. Name its folder or hub id: infer MODEL …\n$/],
    ["infer m --prompt hi --device gpu", /Allowed choices are auto, cpu, cuda/],
    ["infer m --prompt hi --dtype int4", /Allowed choices are float32, float16/],
    ["infer m --prompt hi --actors 2", /Actors are processes of a training run; write --engines/],
    ["infer --model m --prompt hi --max-new-tokens 0", /'0' is invalid. Expected a whole number >= 1.\n$/],
    ["infer --model m --prompt hi --temperature 0", /Expected a number > 0.\n$/],
    ["logprobs --model m --input f --engine gpu", /Allowed choices are actor, learner/],
    ["export m", /^error: required option '--out <dir>' not specified\n$/],
    ["export m --out o --dtype int4", /Allowed choices are bf16, fp32, fp16/],
    ["export m --out o --max-shard-size 5", /Expected an amount of memory/],
    ["eval --model m --data starter --out o --limit many", /Expected a whole number >= 1/],
    ["trajectories", /^error: missing required argument 'run_dir'\n$/],
    ["sft --model m --data d --out o --lerning-rate 1", /unknown option '--lerning-rate'.*--learning-rate/s],
  ])("%j exits 1 with one message", async (line, message) => {
    expect(await run(cli, line)).toBe(1);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/^ {4}at /m);
    expect(stdout).toBe("");
  });

  test("options reach a command typed and with defaults", async () => {
    const program = createProgram();
    const infer = program.commands.find((command) => command.name() === "infer")!;
    let options: unknown;
    infer.action((_model, given) => (options = given));
    await program.parseAsync(["infer", "m", "--prompt", "-5 + 3?", "--max-new-tokens", "32", "--json"], {
      from: "user",
    });
    expect(options).toEqual({
      prompt: "-5 + 3?",
      maxNewTokens: 32,
      json: true,
      stream: false,
      overwrite: false,
      raw: false,
      greedy: false,
      samples: 1,
      seed: 42,
      device: "auto",
      dtype: "float32",
      engines: 1,
      maxRows: 256,
      segmentLength: 8,
      threads: 0,
    });
  });
});

describe("errors", () => {
  test("a UserError is one line without a stack, with one under --debug; a defect keeps its stack", async () => {
    expect(await guarded(() => Promise.reject(new UserError("x is 3, expected 4.")), false)).toBe(1);
    expect(stderr).toBe("error: x is 3, expected 4.\n");
    stderr = "";
    expect(await guarded(() => Promise.reject(new UserError("x")), true)).toBe(1);
    expect(stderr).toMatch(/^UserError: x\n {4}at /);
    stderr = "";
    expect(await guarded(() => Promise.reject(new TypeError("y")), false)).toBe(1);
    expect(stderr).toMatch(/^TypeError: y\n {4}at /);
  });
});

describe("launch", () => {
  test("--version is the package's, and -h the same as --help", async () => {
    expect(await run(launch, "--version")).toBe(0);
    expect(stdout).toBe(`${packageVersion()}\n`);
    stdout = "";
    expect(await run(launch, "-h")).toBe(0);
    expect(stdout).toMatch(/^Usage: launch[^]*Precedence:/);
  });

  test("--help lists flags and configuration keys", async () => {
    expect(await run(launch, "--help")).toBe(0);
    for (const part of ["--algo", "--resume [dir]", "--serial", "--dry-run", "actors.max_restarts = 5", "Precedence:"])
      expect(stdout).toContain(part);
  });

  test("--dry-run prints the resolved configuration and starts nothing", async () => {
    expect(
      await run(launch, "--algo ppo --dry-run --max-steps 3 --seed 5 --actors 2 --run-dir /tmp/no-such-run --lam=0.9"),
    ).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      algo: "ppo",
      max_steps: 3,
      seed: 5,
      actors: { num: 2 },
      lam: 0.9,
      run_dir: "/tmp/no-such-run",
    });
    expect(stderr).toContain("configs/starter.yaml");
  });

  test.each([
    ["--algo dpo", /^error: option '--algo <name>' argument 'dpo' is invalid/],
    ["--seed x", /'x' is invalid. Expected a whole number/],
    ["--resme", /nearest valid one is --resume/],
    ["--learnin_rate=1", /nearest valid one is "learning_rate"/],
    ["--resume /nowhere", /expected the directory of a run, found no config.json/],
    ["--resume --config a.yaml", /remove --config/],
    ["--model.path=/nowhere", /^error: \/nowhere\/config.json: expected a Hugging Face model config/],
  ])("%s exits 1 with one line", async (line, message) => {
    expect(await run(launch, line)).toBe(1);
    expect(stderr).toMatch(message);
    expect(stderr.trimEnd()).not.toContain("\n");
  });

  test("a model or data that cannot serve is refused before anything is written", async () => {
    const dir = mkdtempSync(join(tmpdir(), "launch-"));
    const shape = {
      vocab_size: 9,
      hidden_size: 8,
      intermediate_size: 8,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      max_position_embeddings: 64,
    };
    const model = (json: object) => writeFileSync(join(dir, "config.json"), JSON.stringify({ ...shape, ...json }));
    model({ model_type: "gpt2" });
    expect(await run(launch, `--model.path=${dir} --run-dir ${dir}/run`)).toBe(1);
    expect(stderr).toMatch(/model_type is "gpt2", expected "qwen2" or "llama"/);
    model({ model_type: "qwen2" });
    stderr = "";
    expect(await run(launch, `--model.path=${dir} --max_completion_length=64 --run-dir ${dir}/run`)).toBe(1);
    expect(stderr).toMatch(/leaves no room for a prompt/);
    stderr = "";
    expect(
      await run(launch, `--model.path=${dir} --max_completion_length=16 --data.train=none.jsonl --run-dir ${dir}/run`),
    ).toBe(1);
    expect(stderr).toMatch(/data.train: expected "starter" or a JSONL file, found nothing/);
    expect(() => readFileSync(join(dir, "run/config.json"))).toThrow();
    rmSync(dir, { recursive: true });
  });
});
