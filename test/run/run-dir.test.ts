import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { readRunConfig } from "../../src/run/run-config.js";
import { runConfigSchema } from "../../src/config/schema.js";
import { UserError } from "../../src/errors.js";
import { checkNewRunDir, checkResumableRunDir, claimRunDir, latestRunDir, newRunDir } from "../../src/run/run-dir.js";
import { configFile } from "../../src/run/paths.js";
import { planThreads, threadEnv } from "../../src/launcher/threads.js";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "run-dir-"));
  return () => rmSync(root, { recursive: true });
});
const config = runConfigSchema.parse({ max_steps: 7 });

test("a claimed directory holds the resolved configuration and logs/", () => {
  const dir = join(root, "deep/run");
  claimRunDir(dir, config)();
  claimRunDir(dir, config);
  expect(readRunConfig(configFile(dir))).toEqual(config);
  expect(existsSync(join(dir, "logs"))).toBe(true);
});

test("a run directory is its owner's alone, for prompts and answers lie in it", () => {
  const dir = join(root, "deep/run");
  claimRunDir(dir, config)();
  expect(statSync(dir).mode & 0o777).toBe(0o700);
});

test("a directory that holds a run is refused for a new one, whatever else lies in an old directory is not", () => {
  const dir = join(root, "run");
  checkNewRunDir(dir);
  mkdirSync(dir);
  writeFileSync(join(dir, "notes.txt"), "");
  checkNewRunDir(dir);
  claimRunDir(dir, config);
  expect(() => checkNewRunDir(dir)).toThrow(/already holds a run.*--resume.*--run-dir/);
  expect(() => checkNewRunDir(join(dir, "notes.txt"))).toThrow(UserError);
});

test("a run that ended before it produced anything frees its name; one that trained keeps it", () => {
  const [empty, trained] = [join(root, "empty"), join(root, "trained")];
  claimRunDir(empty, config)();
  checkNewRunDir(empty);
  const release = claimRunDir(trained, config);
  writeFileSync(join(trained, "metrics.jsonl"), "{}\n");
  release();
  expect(() => checkNewRunDir(trained)).toThrow(UserError);
  // the directory is free for a resume
  claimRunDir(trained, config)();
  expect(existsSync(configFile(trained))).toBe(true);
});

test("resuming needs a run", () => {
  expect(() => checkResumableRunDir(root)).toThrow(/found no config.json/);
  expect(() => latestRunDir(root)).toThrow(/found none/);
});

test("a directory run by a living process is refused, one left behind by a dead or another process is not", () => {
  const dir = join(root, "run");
  claimRunDir(dir, config);
  expect(() => claimRunDir(dir, config)).toThrow(new RegExp(`being run by process ${process.pid}`));
  const owner = join(dir, "launcher.json");
  const me = JSON.parse(readFileSync(owner, "utf8")) as { pid: number; started: string | null };
  writeFileSync(owner, JSON.stringify({ ...me, pid: 2 ** 30 }));
  claimRunDir(dir, config);
  // the same pid given to a later process
  writeFileSync(owner, JSON.stringify({ ...me, started: "1" }));
  claimRunDir(dir, config);
  for (const odd of ["cut sho", "null", "[]", '{"host": 1}']) {
    writeFileSync(owner, odd);
    claimRunDir(dir, config);
  }
});

test("a mark of another machine holds as long as it is touched", () => {
  const dir = join(root, "run");
  claimRunDir(dir, config);
  const owner = join(dir, "launcher.json");
  writeFileSync(owner, JSON.stringify({ host: "node-7", pid: 12, started: "1" }));
  expect(() => claimRunDir(dir, config)).toThrow(/being run by process 12 of node-7/);
  const old = Date.now() / 1000 - 3600;
  utimesSync(owner, old, old);
  claimRunDir(dir, config);
  expect(readFileSync(owner, "utf8")).toContain(`"pid":${process.pid}`);
});

test("the latest run is the one started last", () => {
  for (const [name, seconds] of [
    ["b", 2000],
    ["a", 3000],
    ["c", 1000],
  ] as const) {
    mkdirSync(join(root, "runs", name), { recursive: true });
    writeFileSync(configFile(join(root, "runs", name)), "{}");
    utimesSync(configFile(join(root, "runs", name)), seconds, seconds);
  }
  mkdirSync(join(root, "runs/no-run"));
  expect(latestRunDir(root)).toBe(join(root, "runs/a"));
});

test("names of runs carry algorithm and time, and never collide", () => {
  const now = new Date(2026, 0, 2, 3, 4, 5);
  const first = newRunDir("ppo", root, now);
  expect(first).toBe(join(root, "runs/ppo-20260102-030405"));
  mkdirSync(first, { recursive: true });
  expect(newRunDir("ppo", root, now)).toBe(`${first}-2`);
});

test("threads: equal shares, the rest to the learner, at least one each, fixed numbers kept", () => {
  const plan = (cores: number, num: number, actor = 0, learner = 0, serial = false) =>
    planThreads(
      cores,
      { actors: { ...config.actors, num, threads: actor }, learner: { ...config.learner, threads: learner } },
      serial,
    );
  expect(plan(2, 1)).toEqual({ learner: 2, actor: 1 });
  expect(plan(8, 1)).toEqual({ learner: 8, actor: 4 });
  expect(plan(8, 2)).toEqual({ learner: 8, actor: 2 });
  expect(plan(2, 4)).toEqual({ learner: 2, actor: 1 });
  expect(plan(8, 2, 1)).toEqual({ learner: 8, actor: 1 });
  expect(plan(2, 1, 0, 2)).toEqual({ learner: 2, actor: 1 });
  expect(plan(8, 2, 0, 2)).toEqual({ learner: 2, actor: 3 });
  expect(plan(8, 1, 0, 0, true)).toEqual({ learner: 8, actor: 0 });
});

test("children get huge pages unless the user has tuned glibc", () => {
  expect(threadEnv(3, {})).toMatchObject({ OMP_NUM_THREADS: "3", GLIBC_TUNABLES: "glibc.malloc.hugetlb=1" });
  expect(threadEnv(3, { GLIBC_TUNABLES: "glibc.malloc.check=3" })).toMatchObject({
    GLIBC_TUNABLES: "glibc.malloc.check=3",
  });
});
