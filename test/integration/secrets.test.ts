/** The hub's token is in no file of a run and in nothing that is printed, wherever it is kept. */
import { mkdirSync, readFileSync, readdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { findToken } from "../../src/model/hub-client.js";
import { hubCache } from "../../src/model/hub.js";
import { cleanUp, reason, run, starter, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);

it.skipIf(unrunnable)(`a run, its status and its evaluation hold no token of the hub${reason}`, async () => {
  const home = temporary();
  const [inVariable, inHome, inEnv] = ["hf_OfTheVariable1", "hf_OfTheHomeFile2", "hf_OfTheEnvFile3"] as const;
  writeFileSync(join(home, ".huggingface_token"), `${inHome}\n`);
  writeFileSync(join(home, ".env"), `HF_TOKEN=${inEnv}\n`);
  const env = {
    ...process.env,
    HOME: home,
    HF_HOME: join(home, "hf"),
    HF_TOKEN: inVariable,
    // where the native binding's library is
    XDG_CACHE_HOME: process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"),
  };
  // each of the three is a place where the program looks
  expect(findToken(env, home)?.value).toBe(inVariable);
  expect(findToken({ ...env, HF_TOKEN: "" }, home)?.value).toBe(inHome);
  expect(findToken({ HOME: join(home, "hf") }, home)?.value).toBe(inEnv);

  // a model of the hub, which makes a run look at the hub's settings
  const commit = "a".repeat(40);
  const model = join(hubCache(env), "models--org--model");
  for (const folder of ["refs", "snapshots"]) mkdirSync(join(model, folder), { recursive: true });
  writeFileSync(join(model, "refs/main"), commit);
  symlinkSync(starter, join(model, "snapshots", commit));

  const where = { cwd: home, env };
  const runDir = join(home, "run");
  const small = [
    "--max-steps",
    "1",
    "--generation_batch_size=16",
    "--max_completion_length=32",
    "--eval.num_problems=2",
  ];
  const asked = ["--limit", "2", "--max-new-tokens", "16", "--out", join(runDir, "eval")];
  const printed: string[] = [];
  for (const [entry, args] of [
    ["launch", ["--algo", "grpo", "--model.path=org/model", "--run-dir", runDir, ...small]],
    ["cli", ["status", runDir, "--json"]],
    ["cli", ["eval", "--model", runDir, "--data", "starter", ...asked]],
  ] as const) {
    const { code, stdout, stderr } = await run(entry, args, where);
    expect(code, stderr).toBe(0);
    printed.push(stdout, stderr);
  }

  const files = readdirSync(runDir, { recursive: true, encoding: "utf8" }).filter((name) =>
    statSync(join(runDir, name)).isFile(),
  );
  for (const name of ["config.json", "summary.json", "logs/learner.log", "logs/actor-0.jsonl", "eval/metrics.json"])
    expect(files).toContain(name);
  const holding = (token: string): string[] => [
    ...files.filter((name) => readFileSync(join(runDir, name)).includes(token)),
    ...printed.filter((text) => text.includes(token)),
  ];
  for (const token of [inVariable, inHome, inEnv]) expect(holding(token)).toEqual([]);
  // what is in the configuration is found in the same way
  expect(holding("org/model").length + holding(commit).length).toBeGreaterThan(0);
});
