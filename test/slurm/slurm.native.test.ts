import { spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeEach, describe, expect, test } from "vitest";

const project = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");
const standIns = join(project, "test/fixtures/slurm");
const token = "hf_NeverToBeSeenAnywhere456";

let folder = "";
let env: NodeJS.ProcessEnv = {};
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "slurm-"));
  writeFileSync(join(folder, "image.sif"), "");
  writeFileSync(join(folder, "token"), `${token}\n`, { mode: 0o600 });
  writeFileSync(join(folder, "record"), "");
  env = {
    PATH: `${standIns}:${process.env["PATH"]}`,
    HOME: folder,
    USER: "ada",
    RECORD: join(folder, "record"),
    STORAGE: join(folder, "storage"),
    CONTAINER: join(folder, "image.sif"),
    HF_TOKEN_FILE: join(folder, "token"),
  };
  return () => rmSync(folder, { recursive: true });
});
const record = () => readFileSync(join(folder, "record"), "utf8").trimEnd().split("\n");
const storage = (...path: string[]) => join(folder, "storage", ...path);

/**
 * Runs the job script as SLURM would, from a copy, and sends it `signal` when the launcher runs.
 */
async function runJob(
  vars: NodeJS.ProcessEnv = {},
  args: string[] = [],
  signal?: NodeJS.Signals,
  purpose: "train" | "eval" | "study" = "train",
) {
  const script = join(folder, "slurm_script");
  writeFileSync(script, readFileSync(join(project, `slurm/${purpose}.sbatch`)));
  const child = spawn("bash", [script, ...args], {
    cwd: folder,
    env: { ...env, SLURM_SUBMIT_DIR: project, SLURM_JOB_ID: "42", ...vars },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data: Buffer) => (output += data.toString()));
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
  if (signal !== undefined) {
    await expect.poll(record, { timeout: 20_000 }).toContain("running");
    child.kill(signal);
  }
  const status = await ended;
  expect(output + record().join("\n")).not.toContain(token);
  return { status, output };
}
const launcherOf = (line: string | undefined) => line?.replace(/^.*<node> <\/opt\/finellama\/dist\/launch.js> /, "");

describe("the job", () => {
  test("is the launcher, in the container with the host's driver, in one step", async () => {
    expect((await runJob({}, ["--max-steps", "7"])).status).toBe(0);
    const run = storage("runs");
    expect(record()).toEqual([
      `srun <--ntasks=1> <apptainer> <exec> <--nv> <--bind> <${project},${run},${storage("huggingface")},${storage("cuda-cache")}> <${folder}/image.sif>` +
        ` <node> </opt/finellama/dist/launch.js> <--algo> <grpo> <--config> <configs/qwen2.5-3b.yaml>` +
        ` <--run-dir> <${run}/grpo-42> <--actors> <1> <--max-steps> <7>`,
      `environment HF_HOME=${storage("huggingface")} HF_HUB_CACHE=${storage("huggingface/hub")} HF_HUB_OFFLINE=1 token=${token.length}`,
    ]);
    expect(existsSync(run)).toBe(true);
  });

  test("with MPS=1 starts its control daemon, gives the container its pipe, and ends it however the run ends", async () => {
    expect((await runJob({ MPS: "1", FAKE_RUN: "crash" })).status).toBe(3);
    const [start, run, , stop] = record();
    expect(start).toMatch(/^mps <-d> pipe \S+\/mps-42-\w+\/pipe$/);
    const pipe = start!.split(" ").at(-1)!;
    expect(run).toContain(`,${pipe.replace(/\/pipe$/, "")}> <`);
    expect(stop).toBe(`mps quit pipe ${pipe}`);
    expect(existsSync(pipe)).toBe(false);
  });

  test("with MPS=1 where there is no MPS is refused before anything runs", async () => {
    const withoutMps = join(folder, "bin");
    mkdirSync(withoutMps);
    for (const name of ["srun", "scancel", "scontrol"]) cpSync(join(standIns, name), join(withoutMps, name));
    const { status, output } = await runJob({ MPS: "1", PATH: `${withoutMps}:${process.env["PATH"]}` });
    expect(status).toBe(2);
    expect(output).toMatch(/MPS=1: expected nvidia-cuda-mps-control on .*set MPS=0/);
    expect(readFileSync(join(folder, "record"), "utf8")).toBe("");
  });

  test("takes algorithm, configuration and number of GPUs from its environment: one learner, the rest actors", async () => {
    await runJob({ ALGO: "ppo", CONFIG: "configs/starter.yaml", SLURM_GPUS_ON_NODE: "4" });
    expect(launcherOf(record()[0])).toBe(
      `<--algo> <ppo> <--config> <configs/starter.yaml> <--run-dir> <${storage("runs/ppo-42")}> <--actors> <3>`,
    );
  });

  test("of an array has its own run and seed", async () => {
    await runJob({ SLURM_ARRAY_JOB_ID: "40", SLURM_ARRAY_TASK_ID: "2" });
    expect(launcherOf(record()[0])).toContain(`<${storage("runs/grpo-40-seed-2")}> <--actors> <1> <--seed> <2>`);
  });

  test("that finds its run goes on with it, without the arguments of a new one", async () => {
    mkdirSync(storage("runs/grpo-42"), { recursive: true });
    writeFileSync(storage("runs/grpo-42/config.json"), "{}");
    await runJob({ SLURM_RESTART_COUNT: "1" }, ["--max-steps", "7"]);
    expect(launcherOf(record()[0])).toBe(`<--resume> <${storage("runs/grpo-42")}> <--actors> <1>`);
  });

  test("goes on with the run that RUN names", async () => {
    mkdirSync(storage("runs/grpo-41"), { recursive: true });
    writeFileSync(storage("runs/grpo-41/config.json"), "{}");
    await runJob({ RUN: "grpo-41" });
    expect(launcherOf(record()[0])).toBe(`<--resume> <${storage("runs/grpo-41")}> <--actors> <1>`);
  });

  test("works without a token, and takes one that is set already", async () => {
    await runJob({ HF_TOKEN_FILE: join(folder, "nothing") });
    await runJob({ HF_TOKEN: "hf_x" });
    expect(
      record()
        .filter((line) => line.startsWith("environment"))
        .map((line) => line.split(" ").at(-1)),
    ).toEqual(["token=0", "token=4"]);
  });

  test("fails when the launcher fails, and is not queued again", async () => {
    expect((await runJob({ FAKE_RUN: "crash" })).status).toBe(3);
    expect(record().filter((line) => line.startsWith("scontrol"))).toEqual([]);
  });

  test("near its time limit has a checkpoint written, waits for it, and goes back into the queue", async () => {
    const { status, output } = await runJob({ FAKE_RUN: "wait" }, [], "SIGUSR1");
    expect(status).toBe(0);
    expect(record().slice(2)).toEqual([
      "running",
      "scancel <--signal=TERM> <42.0>",
      "saved",
      "scontrol <requeue> <42>",
    ]);
    expect(output).toMatch(/USR1: asking the program to save and end[\s\S]*back into the queue/);
  });

  test("of an array that carries the array's own id means itself alone", async () => {
    const array = { SLURM_JOB_ID: "40", SLURM_ARRAY_JOB_ID: "40", SLURM_ARRAY_TASK_ID: "3" };
    expect((await runJob({ FAKE_RUN: "wait", ...array }, [], "SIGUSR1")).status).toBe(0);
    expect(record().slice(2)).toEqual([
      "running",
      "scancel <--signal=TERM> <40_3.0>",
      "saved",
      "scontrol <requeue> <40_3>",
    ]);
  });

  test("that cannot be put back into the queue fails, and says how to go on", async () => {
    const { status, output } = await runJob({ FAKE_RUN: "wait", FAKE_SCONTROL: "fail" }, [], "SIGUSR1");
    expect(status).toBe(1);
    expect(output).toMatch(/scontrol failed; what it has is saved: RUN=grpo-42 ALGO=grpo slurm\/submit.sh goes on/);
  });

  test("that is cancelled or preempted has a checkpoint written and leaves the queue to SLURM", async () => {
    const { status } = await runJob({ FAKE_RUN: "wait" }, [], "SIGTERM");
    expect(status).toBe(143);
    expect(record().slice(2)).toEqual(["running", "scancel <--signal=TERM> <42.0>", "saved"]);
  });
});

describe("a job for another purpose", () => {
  const commandOf = (line: string | undefined) => line?.replace(/^.*<node> <\/opt\/finellama\/dist\//, "<");

  test("evaluates the run that RUN names, beside the run", async () => {
    expect((await runJob({ RUN: "ppo-7" }, ["--limit", "5"], undefined, "eval")).status).toBe(0);
    expect(commandOf(record()[0])).toBe(
      `<cli.js> <eval> <--model> <${storage("runs/ppo-7")}> <--data> <data/gsm8k/test.jsonl> <--out> <${storage("runs/ppo-7/eval")}>` +
        ` <--device> <cuda> <--dtype> <float16> <--segment-length> <128> <--limit> <5>`,
    );
  });

  test("evaluates the model where no run is named, as the baseline", async () => {
    await runJob({ MODEL: "some/model", DATA: "mine.jsonl" }, [], undefined, "eval");
    expect(commandOf(record()[0])).toMatch(
      new RegExp(
        `^<cli.js> <eval> <--model> <some/model> <--data> <mine.jsonl> <--out> <${storage("runs/baseline")}> `,
      ),
    );
  });

  test("runs a study in a directory of its name", async () => {
    await runJob({ STUDY: "configs/study-starter.yaml" }, [], undefined, "study");
    expect(commandOf(record()[0])).toBe(
      `<cli.js> <study> <configs/study-starter.yaml> <--out> <${storage("runs/study-starter")}>`,
    );
  });

  test.each(["eval", "study"] as const)("%s goes back into the queue near its time limit", async (purpose) => {
    const { status, output } = await runJob({ FAKE_RUN: "wait" }, [], "SIGUSR1", purpose);
    expect(status).toBe(0);
    expect(record().slice(2)).toEqual([
      "running",
      "scancel <--signal=TERM> <42.0>",
      "saved",
      "scontrol <requeue> <42>",
    ]);
    expect(output).toContain("saved; back into the queue");
  });
});

describe.each([
  ["train", "finellama", "24"],
  ["eval", "finellama-eval", "12"],
  ["study", "finellama-study", "24"],
])("the directives of %s", (purpose, name, hours) => {
  const directives = readFileSync(join(project, `slurm/${purpose}.sbatch`), "utf8")
    .split("\n")
    .filter((line) => line.startsWith("#SBATCH"))
    .map((line) => line.slice("#SBATCH ".length));

  test("are what the job relies on, and stand before the first command", () => {
    expect(directives).toEqual([
      `--job-name=${name}`,
      "--nodes=1",
      "--ntasks=1",
      "--gpus=1",
      '-C "fat"',
      `--time=${hours}:00:00`,
      "--output=logs/%x_%j.out",
      "--error=logs/%x_%j.err",
      "--open-mode=append",
      "--signal=B:USR1@300",
      "--requeue",
    ]);
    const lines = readFileSync(join(project, "slurm/train.sbatch"), "utf8").split("\n");
    expect(lines.findIndex((line) => line !== "" && !line.startsWith("#"))).toBeGreaterThan(directives.length);
  });
});

describe("submission", () => {
  /**
   * Runs submit.sh in a copy of the folder, since it makes logs/ beside it, with an account in
   * site.env.
   */
  function submit(vars: NodeJS.ProcessEnv = {}, args: string[] = [], account = "from-site-env") {
    const copy = join(folder, "project");
    cpSync(join(project, "slurm"), join(copy, "slurm"), { recursive: true });
    const site = readFileSync(join(project, "slurm/site.env"), "utf8");
    writeFileSync(join(copy, "slurm/site.env"), site.replace("{ACCOUNT:=YOUR-ACCOUNT}", `{ACCOUNT:=${account}}`));
    const result = spawnSync("bash", [join(copy, "slurm/submit.sh"), ...args], {
      env: { ...env, ...vars },
      encoding: "utf8",
    });
    return { ...result, copy };
  }

  test("takes account and constraint from site.env, and makes the directories first", () => {
    const { status, copy } = submit({}, ["--max-steps", "300"]);
    expect(status).toBe(0);
    expect(record()).toEqual([
      "sbatch <--account=from-site-env> <--gpus=1> <--time=24:00:00> <--job-name=finellama-grpo> <--constraint=fat> <slurm/train.sbatch> <--max-steps> <300>",
    ]);
    for (const path of [join(copy, "logs"), storage("runs"), storage("huggingface")])
      expect(existsSync(path)).toBe(true);
  });

  test("asks for more GPUs, for an array of seeds, for no constraint", () => {
    submit({ ALGO: "ppo", GPUS: "4", SEEDS: "1-3", CONSTRAINT: "", ACCOUNT: "mine" });
    expect(record()).toEqual([
      "sbatch <--account=mine> <--gpus=4> <--time=24:00:00> <--job-name=finellama-ppo> <--array=1-3> <slurm/train.sbatch>",
    ]);
  });

  test("for an evaluation and for a study", () => {
    submit({}, ["eval", "--limit", "5"]);
    submit({ STUDY: join(project, "configs/study-starter.yaml") }, ["study"]);
    expect(record()).toEqual([
      "sbatch <--account=from-site-env> <--gpus=1> <--time=12:00:00> <--job-name=finellama-eval> <--constraint=fat> <slurm/eval.sbatch> <--limit> <5>",
      "sbatch <--account=from-site-env> <--gpus=1> <--time=24:00:00> <--job-name=finellama-study> <--constraint=fat> <slurm/study.sbatch>",
    ]);
  });

  test.each([
    [["study"], { STUDY: "nowhere.yaml" }, /STUDY: expected a study file, found none at nowhere.yaml/],
    [["evaluate"], {}, /evaluate: expected train, eval or study before the options/],
  ])("%j with %o is refused before anything is submitted", (args, vars, message) => {
    const { status, stderr } = submit(vars, args);
    expect(status).toBe(2);
    expect(stderr).toMatch(message);
    expect(record()).toEqual([""]);
  });

  test("where USER is not set goes by the name of the user", () => {
    const { status, stderr } = submit({
      USER: undefined,
      STORAGE: undefined,
      RUNS_DIR: storage("runs"),
      HF_HOME: storage("hf"),
    });
    expect(stderr).not.toContain("unbound");
    expect(status).toBe(0);
  });

  test("with the placeholder account of site.env is refused before anything is submitted", () => {
    const { status, stderr } = submit({}, [], "YOUR-ACCOUNT");
    expect(status).toBe(2);
    expect(stderr).toMatch(/ACCOUNT: expected the account .* found the placeholder YOUR-ACCOUNT/);
    expect(record()).toEqual([""]);
    expect(existsSync(storage())).toBe(false);
  });

  test.each([
    [{ ALGO: "dpo" }, /ALGO: expected grpo or ppo, found dpo/],
    [{ GPUS: "0" }, /GPUS: expected a whole number of at least 1, found 0/],
    [{ CONTAINER: "/nowhere.sif" }, /no image at \/nowhere.sif; build it/],
    [{ RUN: "grpo-1" }, /RUN: expected a run in .*, found none of the name grpo-1/],
  ])("%o is refused before anything is submitted", (vars, message) => {
    const { status, stderr } = submit(vars);
    expect(status).toBe(2);
    expect(stderr).toMatch(message);
    expect(record()).toEqual([""]);
  });
});

test("no file but the worked example of site.env names an account", () => {
  const site = readFileSync(join(project, "slurm/site.env"), "utf8");
  expect(site).toContain(': "${ACCOUNT:=YOUR-ACCOUNT}"');
  const named = spawnSync("git", ["grep", "-lE", "berzelius-[0-9]"], { cwd: project, encoding: "utf8" });
  if (named.status === 0) expect(named.stdout).toBe("slurm/site.env\n"); // outside a clone git finds nothing
});

const hasShellcheck = spawnSync("shellcheck", ["--version"]).status === 0;
test.skipIf(!hasShellcheck)("shellcheck finds nothing (skipped where shellcheck is not installed)", () => {
  const files = ["submit.sh", "train.sbatch", "eval.sbatch", "study.sbatch", "job.sh", "site.env"].map(
    (name) => `slurm/${name}`,
  );
  const fixtures = ["sbatch", "srun", "scancel", "scontrol", "apptainer", "nvidia-cuda-mps-control"].map(
    (name) => `test/fixtures/slurm/${name}`,
  );
  const { stdout } = spawnSync("shellcheck", ["-x", ...files, ...fixtures], { cwd: project, encoding: "utf8" });
  expect(stdout).toBe("");
});
