import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeEach, describe, expect, test } from "vitest";
import { runConfigSchema } from "../../src/config/schema.js";
import { readIncidents } from "../../src/run/incidents.js";
import { configFile } from "../../src/run/paths.js";
import { Supervisor, type SuperviseOptions } from "../../src/launcher/supervise.js";
import type { ProgressEvent } from "../../src/protocol/progress.js";

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
let runDir = "";
const launchers: ChildProcess[] = [];
beforeEach(() => {
  runDir = mkdtempSync(join(tmpdir(), "launcher-"));
  mkdirSync(join(runDir, "logs"));
  return () => {
    // after a failed test; their children follow when the channel closes
    for (const launcher of launchers.splice(0)) launcher.kill("SIGKILL");
    rmSync(runDir, { recursive: true, maxRetries: 10 });
  };
});

const lines = (name: string) => readFileSync(join(runDir, name), "utf8").trimEnd().split("\n");
const isAlive = (pid: number) =>
  existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
const told = (events: readonly ProgressEvent[]) =>
  events.flatMap((event) => (event.type === "log" ? [event.message] : []));
const cleaned: number[] = [];
const survivors = () => lines("pids").map(Number).filter(isAlive);

/** Supervises the fakes in this process; `fakes` chooses what they do. */
function start(
  fakes: Record<string, string>,
  options: Partial<SuperviseOptions> & {
    num?: number;
    learnerRestarts?: number;
    onEvent?: (event: ProgressEvent) => void;
  } = {},
) {
  const config = runConfigSchema.parse({
    max_steps: 40,
    actors: { num: options.num ?? 1, max_restarts: 2 },
    learner: { max_restarts: options.learnerRestarts ?? 0 },
  });
  writeFileSync(configFile(runDir), JSON.stringify(config));
  const events: ProgressEvent[] = [];
  Object.assign(process.env, { FAKE_LEARNER: "train", FAKE_ACTOR: "wait", ...fakes });
  const run = new Supervisor({
    runDir,
    run: config,
    threads: { learner: 1, actor: 1 },
    devices: { learner: null, actors: [] },
    libraryPath: { learner: [], actor: [] },
    scripts: { learner: fixture("fake-learner.mjs"), actor: fixture("fake-actor.mjs") },
    resume: false,
    debug: false,
    onActors: () => {},
    cleanUpAfter: () => {},
    ...options,
    onEvent: (event) => {
      events.push(event);
      options.onEvent?.(event);
    },
  });
  return { run, events };
}

describe("supervision", () => {
  test("a healthy run: actors get the learner's addresses, all events arrive, nobody is left", async () => {
    const { run, events } = start({}, { num: 2 });
    const { summary, failure } = await run.ended;
    expect(failure).toBeUndefined();
    expect(summary).toMatchObject({ iterations: 40, stopped: false });
    expect(lines("actors").toSorted()).toEqual([
      "0 ipc:///tmp/work ipc:///tmp/weights 1",
      "1 ipc:///tmp/work ipc:///tmp/weights 1",
    ]);
    const iterations = events.filter((event) => event.type === "iteration");
    expect(iterations.map((event) => event.iteration)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
    // NaN survives the channel
    expect(iterations[0]!.metrics["kl"]).toBeNaN();
    expect(survivors()).toEqual([]);
  });

  test("each process sees its own GPU and its own library path; one on the CPU sees no GPU", async () => {
    process.env["LD_LIBRARY_PATH"] = "/mine";
    try {
      const { run } = start(
        { FAKE_STEP_MS: "15" },
        {
          num: 3,
          devices: { learner: "GPU-aa", actors: ["GPU-bb", "1", null] },
          libraryPath: { learner: ["/cuda/learner"], actor: ["/cuda/actor", "/cuda/more"] },
        },
      );
      expect((await run.ended).failure).toBeUndefined();
    } finally {
      delete process.env["LD_LIBRARY_PATH"];
    }
    expect(lines("devices").toSorted()).toEqual([
      "actor-0 GPU-bb /cuda/actor:/cuda/more:/mine true",
      "actor-1 1 /cuda/actor:/cuda/more:/mine true",
      "actor-2  /mine undefined",
      "learner GPU-aa /cuda/learner:/mine true",
    ]);
  });

  test("a dead actor is started again and counted", async () => {
    const counts: number[][] = [];
    const { run, events } = start(
      { FAKE_ACTOR: "die-once", FAKE_STEP_MS: "15" },
      { onActors: (...now) => counts.push(now) },
    );
    expect((await run.ended).failure).toBeUndefined();
    expect(lines("actors")).toHaveLength(2);
    expect(counts).toEqual([
      [1, 0],
      [1, 1],
    ]);
    expect(readIncidents(runDir)).toMatchObject([{ process: "actor-0", message: told(events)[0] }]);
    expect(told(events)).toEqual([
      "actor-0 exited with code 3 before the run was over. Restarting it (restart 1 of 2).",
    ]);
  });

  test("a stopped actor is named, killed and replaced", { timeout: 120_000 }, async () => {
    const { run, events } = start(
      { FAKE_LEARNER: "wait", FAKE_ACTOR: "stop-once", FAKE_STEP_MS: "50" },
      { onActors: (_, restarts) => restarts === 1 && setTimeout(() => run.stop(), 1_000) },
    );
    expect((await run.ended).failure).toBeUndefined();
    expect(lines("actors")).toHaveLength(2);
    expect(told(events)[0]).toMatch(/^actor-0 gave no sign of life for \d+ s: it is stopped\.$/);
    expect(told(events).at(-1)).toMatch(/^actor-0 was killed: .* it is stopped\.? Restarting it \(restart 1 of 2\)\.$/);
    expect(readIncidents(runDir)).toHaveLength(2);
  });

  test("actors that go because the learner ends by an error are no news: its reason is", async () => {
    const { run, events } = start({ FAKE_LEARNER: "fail-after-actors" }, { num: 2 });
    expect((await run.ended).failure).toBe("reward functions failed on 100 %.");
    expect(told(events)).toEqual([]);
    expect(lines("actors")).toHaveLength(2);
  });

  test("when restarts are used up the learner still saves, and the run fails with the actor's log", async () => {
    const { run } = start({ FAKE_ACTOR: "die", FAKE_LEARNER: "wait" });
    const { summary, failure } = await run.ended;
    expect(lines("actors")).toHaveLength(3);
    expect(summary).toMatchObject({ stopped: true });
    expect(failure).toContain("| out of luck");
    expect(failure).toContain("actors.max_restarts (2 in 10 minutes) is used up");
    expect(survivors()).toEqual([]);
  });

  test("answers that become short and no better are told once, and kept for status", async () => {
    const { run, events } = start({ FAKE_LEARNER: "collapse" });
    expect((await run.ended).summary).toMatchObject({ iterations: 40 });
    expect(told(events)).toEqual([
      expect.stringMatching(/^Answers became short and no better: 46 tokens in the first 5/),
    ]);
    expect(readIncidents(runDir)).toMatchObject([{ process: "learner", message: told(events)[0] }]);
  });

  test("a user error of a child is the whole message, and an actor's is not tried again", async () => {
    expect(await start({ FAKE_LEARNER: "user-error" }).run.ended).toEqual({
      failure: "data.train: the file holds no problems, expected at least one.",
    });
    const { run } = start({ FAKE_LEARNER: "wait", FAKE_ACTOR: "user-error" });
    expect((await run.ended).failure).toBe("model.safetensors is truncated.");
    expect(lines("actors")).toHaveLength(1);
  });

  test("a crash shows the end of the log, of this start only, and where it lies", async () => {
    writeFileSync(join(runDir, "logs/learner.log"), "an earlier session\n");
    const { failure } = await start({ FAKE_LEARNER: "crash" }).run.ended;
    expect(failure).toMatch(/^learner exited with code 1 before the run was over\./);
    expect(failure).toContain("  | TypeError: a defect of the learner");
    expect(failure).toContain(`Its log: ${join(runDir, "logs/learner.log")}`);
    expect(failure).not.toContain("an earlier session");
  });

  test("a dead learner is started again from its checkpoint, with new actors", async () => {
    const { run, events } = start(
      { FAKE_LEARNER: "die-once", FAKE_STEP_MS: "15" },
      { num: 2, learnerRestarts: 1, cleanUpAfter: (pid) => cleaned.push(pid) },
    );
    const { summary, failure } = await run.ended;
    expect(failure).toBeUndefined();
    expect(summary).toMatchObject({ iterations: 40, stopped: false });
    expect(told(events)).toContain(
      "learner was killed by SIGKILL. Going on from the last checkpoint (restart 1 of 1).",
    );
    expect(lines("actors")).toHaveLength(4);
    expect(new Set(cleaned)).toEqual(new Set(lines("pids").map(Number)));
    expect(survivors()).toEqual([]);
  });

  test("a learner that dies again and again ends the run with its reason and what to do", async () => {
    const { run } = start({ FAKE_LEARNER: "crash" }, { learnerRestarts: 2 });
    const { failure } = await run.ended;
    expect(failure).toContain("TypeError: a defect of the learner");
    expect(failure).toMatch(/learner\.max_restarts \(2 in 10 minutes\) is used up.*--resume/s);
    expect(lines("pids")).toHaveLength(3);
  });

  test("a request for a checkpoint is passed on and ends nothing", async () => {
    const { run, events } = start(
      { FAKE_LEARNER: "wait" },
      {
        onEvent: (event) => {
          if (event.type === "iteration" && event.iteration === 3) run.checkpoint();
          if (event.type === "log" && event.message === "fake checkpoint") run.stop();
        },
      },
    );
    expect((await run.ended).summary).toMatchObject({ stopped: true });
    expect(told(events)).toContain("fake checkpoint");
  });

  test("a learner killed from outside fails the run and takes the actors along", async () => {
    const { run } = start(
      { FAKE_LEARNER: "wait" },
      {
        onEvent: (event) =>
          event.type === "iteration" && event.iteration === 3 && process.kill(Number(lines("pids")[0]), "SIGKILL"),
      },
    );
    const { summary, failure } = await run.ended;
    expect(summary).toBeUndefined();
    expect(failure).toMatch(/^learner was killed by SIGKILL/);
    expect(survivors()).toEqual([]);
  });

  test("stop ends a run that would go on, kill ends one that does not listen", async () => {
    const waiting = start(
      { FAKE_LEARNER: "wait" },
      { onEvent: (event) => event.type === "iteration" && event.iteration === 5 && waiting.run.stop() },
    );
    expect((await waiting.run.ended).summary).toMatchObject({ stopped: true });
    const deaf = start({ FAKE_LEARNER: "deaf" }, { onEvent: (event) => event.type === "ready" && deaf.run.kill() });
    expect((await deaf.run.ended).summary).toBeUndefined();
    expect(survivors()).toEqual([]);
  });
});

const built = existsSync(fileURLToPath(new URL("../../dist/launch.js", import.meta.url)));
// the launcher as a process of its own needs the build, which `npm test` makes first
describe.skipIf(!built)("the launcher as a process", () => {
  /** Starts it; `until` ends the wait for output. */
  function launch(fakes: Record<string, string>, ...args: string[]) {
    const model = join(runDir, "model");
    mkdirSync(model, { recursive: true });
    // a resumed run has its model from config.json
    const which = args.includes("--resume") ? [] : [`--model.path=${model}`];
    const shape = {
      vocab_size: 512,
      hidden_size: 64,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 2,
    };
    writeFileSync(
      join(model, "config.json"),
      JSON.stringify({ model_type: "qwen2", max_position_embeddings: 512, ...shape }),
    );
    const child = spawn(
      process.execPath,
      [fixture("launch-with-fakes.mjs"), ...which, "--run-dir", join(runDir, "run"), ...args],
      {
        env: { ...process.env, FAKE_LEARNER: "train", FAKE_ACTOR: "wait", ...fakes },
        stdio: ["ignore", "pipe", "pipe"],
        cwd: runDir,
      },
    );
    launchers.push(child);
    const text = { out: "", err: "" };
    child.stderr.on("data", (data: Buffer) => (text.err += data.toString()));
    const seen = (marker: string) =>
      new Promise<void>((resolve, reject) => {
        const look = () => text.out.includes(marker) && resolve();
        look();
        child.stdout.on("data", look);
        child.on("close", () => reject(new Error(`ended before "${marker}": ${text.err}`)));
      });
    child.stdout.prependListener("data", (data: Buffer) => (text.out += data.toString()));
    const exited = new Promise<number | null>((resolve) => child.on("close", resolve));
    return { child, text, seen, exited };
  }
  const orphans = () => lines("run/pids").map(Number).filter(isAlive);

  test("plain output when stdout is no terminal, with the closing table; exit code 0", async () => {
    const { text, exited } = launch({}, "--max-steps", "3");
    expect(await exited).toBe(0);
    expect(text.out).toMatch(/^No --config given/);
    expect(text.out.match(/ step \d\/3 /g)).toEqual([" step 1/3 ", " step 2/3 ", " step 3/3 "]);
    expect(text.out).toMatch(/sampled +41.2 % .* \+21.8 points/);
    // no terminal control sequences
    expect(text.out.includes("\u001B")).toBe(false);
    expect(text.err).toBe("");
  });

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
    ["SIGQUIT", 131],
  ] as const)(
    "%s: the learner saves, exit code %i, no orphan, and --resume goes on from there",
    async (signal, code) => {
      const { child, text, seen, exited } = launch({ FAKE_LEARNER: "wait" });
      await seen("step   2/");
      child.kill(signal);
      expect(await exited).toBe(code);
      expect(text.out).toContain("--resume");
      expect(orphans()).toEqual([]);
      const done = Number(readFileSync(join(runDir, "run/iteration"), "utf8"));
      const again = launch({}, "--resume", "--max-steps", String(done + 2));
      expect(await again.exited).toBe(0);
      expect(again.text.out.match(/ step +\d+\//g)!.map((step) => Number(/\d+/.exec(step)![0]))).toEqual([
        done + 1,
        done + 2,
      ]);
    },
  );

  test("a learner that crashes while it saves fails the run: 1, and not the signal's code", async () => {
    const { child, text, seen, exited } = launch({ FAKE_LEARNER: "crash-saving" });
    await seen("step   2/");
    child.kill("SIGTERM");
    expect(await exited).toBe(1);
    expect(text.err).toMatch(/^error: learner was killed by SIGABRT/);
    expect(orphans()).toEqual([]);
  });

  test("a signal passed on by several is one request: the learner saves", async () => {
    const { child, text, seen, exited } = launch({ FAKE_LEARNER: "wait" });
    await seen("step   2/");
    child.kill("SIGTERM");
    await seen("Once more");
    child.kill("SIGTERM");
    expect(await exited).toBe(143);
    expect(text.out).toContain("--resume");
  });

  test("a signal while the learner loads ends with its exit code: nothing was there to save", async () => {
    const { child, exited, text } = launch({ FAKE_LEARNER: "loading" });
    await expect.poll(() => existsSync(join(runDir, "run/pids")), { timeout: 30_000 }).toBe(true);
    // the terminal's signal reaches both
    process.kill(Number(lines("run/pids")[0]), "SIGTERM");
    child.kill("SIGTERM");
    expect(await exited).toBe(143);
    expect(text.err).toBe("");
    expect(text.out).toContain("Stopped before anything was learned");
  });

  test("a second signal kills at once", async () => {
    const { child, text, seen, exited } = launch({ FAKE_LEARNER: "deaf" });
    await seen("learner ready");
    child.kill("SIGINT");
    await seen("Once more");
    // longer than signals passed on by several processes are apart (SAME_SIGNAL_MS)
    await new Promise((resolve) => setTimeout(resolve, 1500));
    child.kill("SIGINT");
    expect(await exited).toBe(1);
    expect(text.err).toBe("error: the run was killed before it wrote a checkpoint.\n");
    expect(orphans()).toEqual([]);
  });

  test.each(["SIGUSR1", "SIGUSR2"] as const)(
    "%s asks for a checkpoint, opens no debugger and ends nothing",
    async (signal) => {
      const { child, text, seen, exited } = launch({ FAKE_LEARNER: "wait" });
      await seen("step   2/");
      child.kill(signal);
      await seen("fake checkpoint");
      child.kill("SIGINT");
      expect(await exited).toBe(130);
      expect(text.err).toBe("");
    },
  );

  test("a reader that goes away ends nothing: the run is in logs/launcher.log", async () => {
    const { child, seen, exited } = launch({ FAKE_STEP_MS: "20" }, "--max-steps", "30");
    await seen("step  2/30");
    child.stdout.destroy();
    child.stderr.destroy();
    expect(await exited).toBe(0);
    expect(readFileSync(join(runDir, "run/logs/launcher.log"), "utf8")).toContain("step 30/30");
  });

  test("a killed launcher leaves no orphan", async () => {
    const { child, seen, exited } = launch({ FAKE_LEARNER: "wait" });
    await seen("step   2/");
    child.kill("SIGKILL");
    await exited;
    await expect.poll(orphans, { timeout: 10_000 }).toEqual([]);
  });

  test("a plan that cannot fit is refused with a cure, and nothing is written; --no-plan starts it all the same", async () => {
    const tooMany = ["--actors.max_rows=2000000000", "--max-steps", "2"];
    const refused = launch({}, ...tooMany);
    expect(await refused.exited).toBe(1);
    expect(refused.text.err).toMatch(
      /^error: This run would not fit into memory\.\nRAM: expected at most .*, the plan needs .*actor-0: /s,
    );
    expect(refused.text.err).toMatch(/--actors\.max_rows\n.*Change one of these keys.*--no-plan\n$/s);
    expect(existsSync(join(runDir, "run"))).toBe(false);
    const started = launch({}, ...tooMany, "--no-plan");
    expect(await started.exited).toBe(0);
    expect(started.text.out).toContain(" step 2/2 ");
    expect(lines("run/actors")).toHaveLength(1);
  });

  test("a user error is told once, plainly, and frees the directory", async () => {
    const { text, exited } = launch({ FAKE_LEARNER: "user-error" });
    expect(await exited).toBe(1);
    expect(text.err).toBe("error: data.train: the file holds no problems, expected at least one.\n");
    expect(text.out).not.toContain("holds no problems");
    expect(existsSync(join(runDir, "run/config.json"))).toBe(false);
  });
});
