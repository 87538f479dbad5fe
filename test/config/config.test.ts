import { distance } from "fastest-levenshtein";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { configKeys, describeConfig, nearestKey } from "../../src/config/keys.js";
import { loadConfig, packageRoot, resumeConfig, type LoadOptions } from "../../src/config/load.js";
import { readRunConfig } from "../../src/run/run-config.js";
import { runConfigSchema } from "../../src/config/schema.js";
import { UserError } from "../../src/errors.js";

const cwd = mkdtempSync(join(tmpdir(), "config-"));
let files = 0;
function yaml(text: string): string {
  const file = join(cwd, `${files++}.yaml`);
  writeFileSync(file, text);
  return file;
}
/** Loads without the starter's settings unless files are named. */
const load = (options: LoadOptions = {}) => loadConfig({ files: [yaml("{}")], cwd, ...options });
const withFlags = (...overrides: string[]) => load({ overrides }).config;
const refusal = (options: LoadOptions): string => {
  try {
    load(options);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as Error).message;
  }
  throw new Error("expected a refusal");
};

describe("precedence", () => {
  test("schema default < algorithm's file < --config files left to right < flag", () => {
    // gamma and num_ppo_epochs: ppo_config.yaml; kl_horizon: schema
    const shipped = parse(readFileSync(join(packageRoot, "configs/ppo_config.yaml"), "utf8")) as {
      num_ppo_epochs: number;
    };
    const first = yaml("num_mini_batches: 4\ncliprange: 0.3\nactors: {num: 2, max_rows: 64}");
    const second = yaml("cliprange: 0.4\nactors: {num: 3}");
    const { config } = load({ algo: "ppo", files: [first, second], overrides: ["--actors.max_rows=32"] });
    expect(config.kl_horizon).toBe(10_000);
    expect(config.num_ppo_epochs).toBe(shipped.num_ppo_epochs);
    expect(config.num_mini_batches).toBe(4);
    expect(config.cliprange).toBe(0.4);
    expect(config.actors).toMatchObject({ num: 3, max_rows: 32, segment_length: 8 });
  });

  test("a file may choose the algorithm, and with it the algorithm's file; --algo overrules it", () => {
    const file = yaml("algo: ppo");
    expect(load({ files: [file] })).toMatchObject({
      config: { algo: "ppo" },
      files: [join(packageRoot, "configs/ppo_config.yaml"), file],
    });
    expect(load({ files: [file], algo: "grpo" })).toMatchObject({
      config: { algo: "grpo" },
      files: [join(packageRoot, "configs/grpo_config.yaml"), file],
    });
  });

  test("without --config the starter is used and the first note says so", () => {
    const { config, notes } = loadConfig({ cwd });
    expect(config.model.path).toBe(join(packageRoot, "assets/starter"));
    expect(notes[0]).toContain("configs/starter.yaml");
    expect(load().notes).toEqual([]);
  });

  test("lists are replaced, not merged", () => {
    const file = yaml("reward: {functions: [{name: correctness}, {name: format, weight: 0.5}]}");
    const { config } = load({ files: [file], overrides: ["--reward.functions=[{name: format}]"] });
    expect(config.reward.functions).toEqual([{ name: "format", weight: 1 }]);
  });
});

describe("flags", () => {
  test("values are typed as YAML, with = or a space between, dashes as underscores", () => {
    expect(
      withFlags(
        "--learning_rate=1e-6",
        "--lora.enabled",
        "true",
        "--data.system-prompt=null",
        "--epsilon_high",
        "0.28",
      ),
    ).toMatchObject({
      learning_rate: 1e-6,
      lora: { enabled: true },
      data: { system_prompt: null },
      epsilon_high: 0.28,
    });
  });

  test("a value that starts with a minus or holds = arrives whole", () => {
    expect(withFlags("--entropy_coef", "-0.5", "--data.prompt_suffix= a=b").entropy_coef).toBe(-0.5);
    expect(withFlags("--data.prompt_suffix= a=b").data.prompt_suffix).toBe(" a=b");
  });

  test.each([
    " Write the final answer after ####.",
    "Answer: #### 18",
    '"quoted" tail',
    "'quoted'",
    "%d",
    "*bold*",
    "{a: 1}",
    "[1, 2]",
    "- item",
    "&x",
    "yes",
    "18",
    "~",
    "a: b: c",
    "two\nlines ",
    "",
  ])("the text %j is taken as it stands, with = or a space between", (text) => {
    expect(withFlags(`--data.prompt_suffix=${text}`).data.prompt_suffix).toBe(text);
    expect(withFlags("--data.system_prompt", text).data.system_prompt).toBe(text);
    expect(withFlags(`--transport.address=${text}`, "--transport.address", "ipc").transport.address).toBe("ipc");
  });

  test("null is null for a text that may be absent, and a text for any other", () => {
    expect(withFlags("--data.system_prompt=null", "--run_dir=null")).toMatchObject({
      data: { system_prompt: null },
      run_dir: null,
    });
    expect(withFlags("--data.prompt_suffix=null").data.prompt_suffix).toBe("null");
  });

  test("a flag without a value, or a word that is no flag, is refused", () => {
    expect(refusal({ overrides: ["--epsilon", "--seed=1"] })).toContain("--epsilon needs a value");
    expect(refusal({ overrides: ["grpo"] })).toContain('"grpo" is not understood');
  });

  test("keys of the other algorithm are allowed, with a note", () => {
    expect(load({ algo: "grpo", overrides: ["--vf_coef=0.2"] }).notes).toEqual([
      expect.stringMatching(/vf_coef.*no effect/),
    ]);
    expect(load({ algo: "ppo", overrides: ["--vf_coef=0.2"] }).notes).toEqual([]);
  });
});

describe("refusals", () => {
  test.each([
    ["lerning_rate: 1", "lerning_rate", "learning_rate"],
    ["lora: {rank: 8}", "lora.rank", "lora.r"],
    ["eval_problems: 3", "eval_problems", "eval.num_problems"],
    ["num_problems: 3", "num_problems", "eval.num_problems"],
    ["output_dir: x", "output_dir", "run_dir"],
    ["per_device_train_batch_size: 8", "per_device_train_batch_size", "generation_batch_size"],
  ])("unknown key in %s names the nearest valid one", (text, key, nearest) => {
    const file = yaml(text);
    expect(refusal({ files: [file] })).toMatch(
      new RegExp(`^\\d+\\.yaml: unknown key "${key}"; the nearest valid one is "${nearest}"`),
    );
  });

  test("a tag that YAML does not know is refused by name, in files and flags", () => {
    const tagged = /(cannot be read|not valid YAML): Unresolved tag: !validation/;
    expect(refusal({ files: [yaml("data: {train: !validation x}")] })).toMatch(tagged);
    expect(refusal({ overrides: ["--max_steps=!validation 3"] })).toMatch(tagged);
  });

  test("a missing file is told with the folders that were looked in, each once", () => {
    const places = (from: string) =>
      /are looked for in (.*)\.$/.exec(refusal({ files: ["none.yaml"], cwd: from }))![1]!.split(" and in ");
    expect(places(resolve(packageRoot))).toEqual([resolve(packageRoot)]);
    expect(places(cwd)).toEqual([cwd, resolve(packageRoot)]);
  });

  test("a mistyped program flag is told from a key", () => {
    expect(refusal({ overrides: ["--resme"], flags: ["resume", "dry-run"] })).toContain("--resume");
    expect(refusal({ overrides: ["--lora.rnk=2"], flags: ["resume"] })).toContain('"lora.r"');
  });

  test("any one-letter slip in a key is traced back to it, or to another key one letter away", () => {
    const keys = configKeys.map(({ key }) => key).filter((key) => key.length > 6);
    fc.assert(
      fc.property(fc.constantFrom(...keys), fc.nat(), (key, at) => {
        const slip = `${key.slice(0, at % key.length)}#${key.slice((at % key.length) + 1)}`;
        // adam_beta# is as near to adam_beta1 as to adam_beta2.
        expect(distance(nearestKey(slip)!, slip)).toBe(1);
      }),
    );
  });

  test.each([
    ["learning_rate: fast", 'learning_rate must be a number >= 0, found "fast"'],
    ["num_generations: 2.5", "num_generations must be an integer >= 1, found 2.5"],
    ["lam: 1.5", "lam must be a number from 0 to 1, found 1.5"],
    ["loss_type: gspo", 'loss_type must be one of "grpo", "bnpo", "dr_grpo", "dapo", found "gspo"'],
    ["epsilon_high: -1", "epsilon_high must be a number > 0 or null, found -1"],
    ["filter_groups: 'yes'", 'filter_groups must be true or false, found "yes"'],
    ["lora: 3", "lora must be a mapping with the keys enabled, r,"],
    ["reward: {functions: [{weight: 2}]}", "reward.functions.0.name must be a string, found nothing"],
    ["[1, 2]", "the file must be a mapping"],
  ])("%s names key, expected and found", (text, message) => {
    expect(refusal({ files: [yaml(text)] })).toContain(message);
  });

  test("all faults of a file are told at once", () => {
    expect(refusal({ files: [yaml("gama: 1\nlam: 2")] }).split("\n")).toHaveLength(2);
  });

  test.each(["top_p", "top_k", "min_p", "repetition_penalty"])(
    "%s is refused with the reason, in files and flags",
    (key) => {
      for (const message of [refusal({ files: [yaml(`${key}: 0.9`)] }), refusal({ overrides: [`--${key}=0.9`] })]) {
        expect(message).toContain("`temperature` alone");
        expect(message).toContain(`remove ${key}`);
      }
    },
  );

  test("a missing file and broken YAML are named", () => {
    expect(refusal({ files: ["nowhere.yaml"] })).toMatch(
      /^nowhere.yaml: expected a YAML configuration file, found nothing/,
    );
    expect(refusal({ files: [yaml("a: [1")] })).toMatch(/^\d+.yaml: .*cannot be read/);
  });

  test.each([
    [["--num_generations=1"], /num_generations is 1, but GRPO/],
    [
      ["--num_generations=8", "--generation_batch_size=100"],
      /generation_batch_size \(100\) must be a multiple of num_generations \(8\); try 96 or 104/,
    ],
    [
      ["--num_generations=8", "--generation_batch_size=64", "--steps_per_generation=3"],
      /steps_per_generation \(3\) must divide the 8 groups/,
    ],
    [["--kl_target=0.1", "--kl_coef=0"], /kl_target is set, but kl_coef is 0/],
    [["--reward.overlong_buffer=64", "--max_completion_length=64"], /reward.overlong_buffer \(64\) must be smaller/],
    [["--actors.max_rows=4"], /actors.max_rows \(4\) must be at least num_generations \(8\)/],
    [["--actors.dtype=float16"], /selftest.max_logprob_gap \(0.0001\).*Set selftest.max_logprob_gap=null/],
    [["--actors.dtype=int8"], /actors.dtype is int8.*Set selftest.max_logprob_gap=null and selftest.mean_logprob_gap/],
    [["--actors.dtype=int8", "--actors.device=cuda"], /actors.dtype=int8: expected actors.device=cpu/],
    [["--selftest.max_logprob_gap=null"], /all null, so that actor and learner would never be compared/],
    [["--learner.device=cuda", "--learner.backend=wasm"], /learner.backend=wasm computes on the CPU only/],
    [["--transport.address=tcp://10.0.0.1:5555"], /Other hosts are refused/],
    [["--transport.address=tcp://127.0.0.1:65535"], /PORT from 1 to 65534/],
  ])("%j is refused", (overrides, message) => {
    expect(refusal({ overrides })).toMatch(message);
  });

  test("PPO: a single completion per prompt is fine, and mini-batches must divide the groups", () => {
    expect(load({ algo: "ppo", overrides: ["--num_generations=1"] }).config.num_generations).toBe(1);
    expect(
      refusal({
        algo: "ppo",
        overrides: ["--num_generations=4", "--generation_batch_size=12", "--num_mini_batches=2"],
      }),
    ).toContain("num_mini_batches (2)");
  });

  test("a warm-up as long as the run is told, not refused: short trials use shipped files", () => {
    expect(load({ overrides: ["--warmup_steps=5", "--max_steps=2"] }).notes).toEqual([
      expect.stringContaining("warmup_steps (5)"),
    ]);
  });
});

describe("paths", () => {
  test("what exists in the current directory wins over the package, a missing path means the current directory", () => {
    const here = mkdtempSync(join(tmpdir(), "config-"));
    const path = (value: string) => load({ cwd: here, overrides: [`--model.path=${value}`] }).config.model.path;
    expect(path("assets/starter")).toBe(join(packageRoot, "assets/starter"));
    expect(path("elsewhere")).toBe(join(here, "elsewhere"));
    mkdirSync(join(here, "assets/starter"), { recursive: true });
    expect(path("assets/starter")).toBe(join(here, "assets/starter"));
  });

  test("data files and reward modules become absolute, built-in names stay", () => {
    const { config } = load({
      overrides: ["--data.train=t.jsonl", "--reward.functions=[{name: correctness}, {name: ./r.mjs}]", "--run_dir=out"],
    });
    expect(config.data).toMatchObject({ train: join(cwd, "t.jsonl"), validation: "starter" });
    expect(config.reward.functions.map(({ name }) => name)).toEqual(["correctness", join(cwd, "r.mjs")]);
    expect(config.run_dir).toBe(join(cwd, "out"));
  });
});

describe("resume", () => {
  const stored = join(cwd, "config.json");
  const { config } = load({ overrides: ["--max_steps=7"] });
  writeFileSync(stored, JSON.stringify(config));

  test("a stored configuration reads back unchanged", () => {
    expect(readRunConfig(stored)).toEqual(config);
  });

  test("length and machinery may change, what is learnt may not", () => {
    expect(resumeConfig(readRunConfig(stored), ["--max_steps=9", "--actors.num=2"]).config).toEqual({
      ...config,
      max_steps: 9,
      actors: { ...config.actors, num: 2 },
    });
    const memory = [
      "--tokens_per_microbatch=64",
      "--model.gradient_checkpointing=true",
      "--selftest.max_logprob_gap=1",
    ];
    expect(resumeConfig(readRunConfig(stored), memory).config).toEqual({
      ...config,
      tokens_per_microbatch: 64,
      model: { ...config.model, gradient_checkpointing: true },
      selftest: { ...config.selftest, max_logprob_gap: 1 },
    });
    expect(() => resumeConfig(readRunConfig(stored), ["--learning_rate=1"])).toThrow(
      /learning_rate cannot change when a run is resumed/,
    );
    // the same command again, as a requeued job gives it
    const same = [`--learning_rate=${config.learning_rate}`, `--eval.num_problems=${config.eval.num_problems}`];
    expect(resumeConfig(readRunConfig(stored), same).config).toEqual(config);
  });

  test("a damaged or foreign file is refused", () => {
    writeFileSync(join(cwd, "cut.json"), '{"algo": ');
    expect(() => readRunConfig(join(cwd, "cut.json"))).toThrow(UserError);
    writeFileSync(join(cwd, "old.json"), JSON.stringify({ ...config, gone: 1 }));
    expect(() => readRunConfig(join(cwd, "old.json"))).toThrow(/unknown key "gone"/);
  });
});

describe("shipped files and help", () => {
  const shipped = readdirSync(join(packageRoot, "configs")).filter((name) => name.endsWith(".yaml"));
  // studies have a schema of their own (study.test.ts)
  const runs = shipped.filter((name) => !name.startsWith("study-"));

  test.each(runs)("configs/%s opens with the command that runs it, and resolves for both algorithms", (name) => {
    const text = readFileSync(join(packageRoot, "configs", name), "utf8");
    expect(text).toMatch(/^# node dist\/launch\.js /);
    const files = name.endsWith("_config.yaml") ? ["configs/starter.yaml", `configs/${name}`] : [`configs/${name}`];
    for (const algo of ["grpo", "ppo"] as const) expect(load({ algo, files }).notes).toEqual([]);
  });

  test("the files of issue and mission are there", () => {
    expect(shipped).toEqual(
      expect.arrayContaining([
        "grpo_config.yaml",
        "ppo_config.yaml",
        "model_config.yaml",
        "eval_config.yaml",
        "starter.yaml",
      ]),
    );
  });

  test("help lists every key with the schema's default", () => {
    const help = describeConfig();
    for (const { key, default: value } of configKeys) {
      expect(help).toContain(`  ${key} = ${JSON.stringify(value)}`);
      const actual = key
        .split(".")
        .reduce<unknown>((at, name) => (at as Record<string, unknown>)[name], runConfigSchema.parse({}));
      expect(actual).toEqual(value);
    }
    expect(configKeys.length).toBeGreaterThan(60);
  });
});
