/**
 * Real processes: the dispatcher thread, actor processes with the ONNX Runtime engine, ZeroMQ
 * between. Uses dist/. The model is the starter's architecture with random weights, which only the
 * learner's side has: actors get them by wire.
 */
import { type ChildProcess, fork } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { Dealer } from "zeromq";
import type { OrtEngine as Engine } from "../../src/engine/engine.js";
import { type RunConfig, runConfigSchema } from "../../src/config/schema.js";
import { batchFile, readBatchFile } from "../../src/run/journal.js";
import type { RemoteSource as Remote } from "../../src/learner/rollouts/remote-source.js";
import { SerialSource } from "../../src/learner/rollouts/serial-source.js";
import { TaskSource, bookOptions } from "../../src/learner/rollouts/task-source.js";
import { readModelConfig } from "../../src/model/config.js";
import { layoutSize, weightLayout } from "../../src/model/layout.js";
import { hashPacked } from "../../src/model/identity.js";
import { loadTokenizer } from "../../src/model/tokenizer.js";
import { TOKEN_VARIABLE } from "../../src/protocol/progress.js";
import { sealed } from "../../src/protocol/sockets.js";
import { loadRewards } from "../../src/tasks/rewards.js";
import { makeScorer } from "../../src/tasks/scorer.js";
import { decode, encode } from "../../src/protocol/codec.js";
import { fromLearner } from "../../src/protocol/wire-schemas.js";

const root = resolve(import.meta.dirname, "../..");
const built = existsSync(join(root, "dist/learner/rollouts/dispatcher-thread.js"));
const model = readModelConfig(join(root, "assets/starter"));
const layout = weightLayout(model);

/**
 * Norms 1, everything else small pseudo-random numbers: a model that answers noise, the same for
 * equal seeds.
 */
function randomWeights(seed: number): Float32Array {
  const packed = new Float32Array(layoutSize(layout));
  let state = seed + 1;
  for (const { name, offset, size } of layout)
    for (let i = 0; i < size; i++) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      packed[offset + i] = name.includes("norm") ? 1 : (state / 2 ** 32 - 0.5) * 0.2;
    }
  return packed;
}

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

function makeRun(overrides: Record<string, unknown> = {}): { config: RunConfig; runDir: string; file: string } {
  const runDir = mkdtempSync(join(tmpdir(), "frl-run-"));
  cleanups.push(() => rmSync(runDir, { recursive: true, force: true }));
  const config = runConfigSchema.parse({
    model: { path: join(root, "assets/starter") },
    generation_batch_size: 32,
    num_generations: 4,
    max_completion_length: 12,
    max_steps: 3,
    actors: { max_rows: 16, segment_length: 4 },
    ...overrides,
  });
  const file = join(runDir, "config.json");
  writeFileSync(file, JSON.stringify(config));
  return { config, runDir, file };
}

let RemoteSource: typeof Remote;
let OrtEngine: typeof Engine;

async function startSource(run: ReturnType<typeof makeRun>, firstIteration = 0): Promise<Remote> {
  const { config, runDir } = run;
  const source = await RemoteSource.start({ run: config, runDir, firstIteration, layout, baseSha256: null });
  cleanups.push(() => source.close());
  return source;
}

function startActor(run: ReturnType<typeof makeRun>, { addresses, token }: Remote, index = 0): ChildProcess {
  const { work, weights } = addresses;
  const env = { ...process.env, [TOKEN_VARIABLE]: token };
  const args = ["--config", run.file, "--index", String(index), "--work", work, "--weights", weights, "--threads", "1"];
  return track(fork(join(root, "dist/actors/main.js"), args, { env, stdio: ["ignore", "inherit", "pipe", "ipc"] }));
}

function track(child: ChildProcess): ChildProcess {
  cleanups.push(() => child.kill("SIGKILL"));
  return child;
}

/**
 * (Node emits no "close" for a child whose channel the parent disconnected, so exit and stderr are
 * awaited apart.)
 */
async function exitOf(child: ChildProcess): Promise<{ code: number | null; stderr: string }> {
  const [stderr, [code]] = await Promise.all([text(child.stderr!), once(child, "exit") as Promise<[number | null]>]);
  return { code, stderr };
}

describe.skipIf(!built)("learner and actors as processes (run `npm run build` first)", { timeout: 60_000 }, () => {
  beforeAll(async () => {
    ({ RemoteSource } = (await import(join(root, "dist/learner/rollouts/remote-source.js"))) as {
      RemoteSource: typeof Remote;
    });
    ({ OrtEngine } = (await import(join(root, "dist/engine/engine.js"))) as { OrtEngine: typeof Engine });
  });

  it("one and two actors and the serial source sample the same completions from the same weights", async () => {
    const packed = randomWeights(1);
    const sampled: string[][] = [];
    for (const numActors of [1, 2]) {
      const run = makeRun();
      const source = await startSource(run);
      for (let i = 0; i < numActors; i++) startActor(run, source, i);
      expect(await source.publish(packed, 0)).toEqual({ iteration: 0, sha256: hashPacked(packed, layout) });
      const { groups } = await source.batch(0);
      if (numActors === 2) while ((await source.stats())["actors_on_current_weights"] !== 2) await pause(20);
      sampled.push(groups.flatMap((g) => g.completions.map((c) => [...c.ids].join())));
      await source.close();
    }
    const { config, runDir } = makeRun();
    const tasks = TaskSource.open(config);
    const scorer = makeScorer(loadTokenizer(config.model.path, model), await loadRewards(config.reward, 12));
    const serial = new SerialSource({
      ...bookOptions(config, tasks),
      engine: await OrtEngine.create(model, { threads: 1, maxRows: 16, segmentLength: 4 }),
      maxRows: 16,
      score: scorer,
      evalTasks: (request) => tasks.evalTasks(request),
      firstIteration: 0,
      runDir,
      log: () => {},
      note: () => {},
    });
    cleanups.push(() => serial.close());
    await serial.publish(packed, 0);
    sampled.push((await serial.batch(0)).groups.flatMap((g) => g.completions.map((c) => [...c.ids].join())));

    const [one, two, alone] = sampled as [string[], string[], string[]];
    expect(one).toHaveLength(32);
    expect(new Set(one).size).toBeGreaterThan(16);
    // A uniform within rounding of a cdf boundary may fall on either side: one such token in 1,100
    // is already rare.
    expect(one.filter((ids, i) => ids === two[i]).length).toBeGreaterThanOrEqual(31);
    expect(one.filter((ids, i) => ids === alone[i]).length).toBeGreaterThanOrEqual(31);
  });

  for (const transport of ["ipc", "tcp"])
    it(`while TensorFlow's thread is blocked, heartbeats, tasks, weights, answers and acks go on (${transport})`, async () => {
      const address = transport === "ipc" ? "ipc" : `tcp://127.0.0.1:${await freePorts()}`;
      const run = makeRun({ transport: { address } });
      const source = await startSource(run);
      const { work, weights } = source.addresses;
      const actor = track(
        fork(join(root, "test/fixtures/impatient-actor.mjs"), [run.file, work, weights, source.token], {
          stdio: ["ignore", "inherit", "pipe", "ipc"],
        }),
      );
      await source.publish(randomWeights(1), 0);
      await source.batch(0);
      await source.publish(randomWeights(2), 1);
      // The actor's patience is 2.5 seconds: without heartbeats it would be gone before the end.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 6_000);
      // No turn of this thread's event loop has passed: all of this happened elsewhere.
      const { records } = readBatchFile(batchFile(join(run.runDir, "trajectories"), 2));
      expect(records).toHaveLength(8);
      for (const r of records)
        expect(r.type === "trajectory" && r.group.completions.every((c) => c.version.iteration === 1)).toBe(true);
      expect(actor.exitCode).toBeNull();
      expect(await source.stats()).toMatchObject({ actors_live: 1, groups_received: 24 });
    });

  it("tasks of an actor killed with -9 are answered by another", async () => {
    const run = makeRun({ max_completion_length: 200 });
    const source = await startSource(run);
    const victim = startActor(run, source);
    await source.publish(randomWeights(1), 0);
    while (((await source.stats())["tasks_leased"] ?? 0) === 0) await pause(5);
    victim.kill("SIGKILL");
    while (((await source.stats())["actors_lost"] ?? 0) === 0) await pause(20);
    startActor(run, source, 1);
    expect((await source.batch(0)).groups).toHaveLength(8);
    expect((await source.stats())["tasks_released_actor_gone"]).toBeGreaterThan(0);
  });

  it("a resumed run takes batches from the journal without any actor", async () => {
    const run = makeRun();
    const first = await startSource(run);
    startActor(run, first);
    const packed = randomWeights(1);
    await first.publish(packed, 0);
    const before = await first.batch(0);
    await first.recordAdvantages(
      0,
      new Map(before.groups.map((g) => [g.taskId, g.completions.map((c) => new Float32Array(c.ids.length))])),
    );
    await first.publish(randomWeights(2), 1);
    const batch1 = await first.batch(1);
    await first.close();
    const second = await startSource(run, 1);
    await second.publish(randomWeights(2), 1);
    const again = await second.batch(1);
    expect(again.groups).toEqual(batch1.groups);
    expect(await second.stats()).toMatchObject({ journal_groups_reused: expect.any(Number), actors_live: 0 });
  });

  it("actor and learner end when their launcher went before they listened", async () => {
    const run = makeRun();
    const source = await startSource(run);
    const actor = startActor(run, source);
    const learner = track(
      fork(join(root, "dist/learner/main.js"), ["--config", run.file], { stdio: ["ignore", "pipe", "pipe", "ipc"] }),
    );
    const exits = [exitOf(actor), once(learner, "exit")];
    actor.disconnect();
    learner.disconnect();
    expect(await exits[0]).toMatchObject({ code: 0, stderr: expect.stringContaining("the launcher is gone") });
    expect(await exits[1]).toEqual([null, "SIGKILL"]);
  });

  it("an actor stops with 0 when the learner ends, when told by its parent, and when its parent is gone", async () => {
    const run = makeRun();
    const source = await startSource(run);
    const actors = [
      startActor(run, source, 0),
      startActor(run, source, 1),
      startActor(run, source, 2),
      startActor(run, source, 3),
    ];
    while ((await source.stats())["actors_live"] !== 4) await pause(20);
    const exits = actors.map(exitOf);
    actors[0]!.send({ type: "stop" });
    actors[1]!.disconnect();
    for (const i of [0, 1]) expect(await exits[i]).toMatchObject({ code: 0 });
    expect((await exits[1])!.stderr).toContain("the launcher is gone");
    // a signal to the whole group is the launcher's to answer; USR1 opens no debugger
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"] as const) actors[2]!.kill(signal);
    await pause(500);
    expect((await source.stats())["actors_live"]).toBe(2);
    actors[2]!.send({ type: "stop" });
    expect(await exits[2]).toMatchObject({ code: 0, stderr: "" });
    expect((await source.stats())["actors_live"]).toBe(1);
    await source.close();
    expect(await exits[3]).toMatchObject({ code: 0 });
  });

  it("a failure of the dispatcher thread keeps its reason, and closing after it ends nobody", async () => {
    const run = makeRun();
    const source = await startSource(run);
    await source.publish(randomWeights(1), 0);
    const batch = source.batch(0);
    const stray = new Dealer({ routingId: "stray", linger: 0 });
    cleanups.push(() => stray.close());
    stray.connect(source.addresses.work);
    await stray.send(sealed(encode({ type: "hello", token: source.token, pid: 1, index: 0, capacity: 64 })));
    let task: string | null = null;
    for await (const frames of stray) {
      const { header } = decode(fromLearner, frames.slice(0, -1));
      if (header.type !== "task" || (task !== null && header.taskId !== task)) continue;
      task ??= header.taskId;
      // the task comes back after each refusal, and the last refusal ends the run
      await stray.send(sealed(encode({ type: "group", taskId: task, actorId: "stray", completions: "none" })));
      if ((await Promise.race([batch.catch((error: Error) => error), pause(200)])) instanceof Error) break;
    }
    await expect(batch).rejects.toThrow(/was answered 5 times and refused each time/);
    await source.close();
    expect(existsSync(source.addresses.work.replace("ipc://", ""))).toBe(false);
  });

  it("a used port, and a setting an actor cannot work with, give one message", async () => {
    const port = await freePorts();
    const server = createServer().listen(port, "127.0.0.1");
    cleanups.push(() => server.close());
    await new Promise((done) => server.once("listening", done));
    const run = makeRun({ transport: { address: `tcp://127.0.0.1:${port}` } });
    const { config, runDir } = run;
    const started = RemoteSource.start({ run: config, runDir, firstIteration: 0, layout, baseSha256: null });
    await expect(started).rejects.toThrow(`tcp://127.0.0.1:${port}: expected a free port`);
    const actor = track(
      fork(join(root, "dist/actors/main.js"), ["--index", "3"], { stdio: ["ignore", "inherit", "pipe", "ipc"] }),
    );
    const said = new Promise((done) => actor.once("message", done));
    expect(await exitOf(actor)).toMatchObject({ code: 1, stderr: expect.not.stringContaining("    at ") as string });
    expect(await said).toMatchObject({ type: "error", user: true });
  });
});

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

/** A port that is free now, as is the one after it. */
async function freePorts(): Promise<number> {
  for (;;) {
    const server = createServer().listen(0, "127.0.0.1");
    await new Promise((done) => server.once("listening", done));
    const { port } = server.address() as { port: number };
    const next = createServer().listen(port + 1, "127.0.0.1");
    const free = await new Promise<boolean>((done) =>
      next.once("listening", () => done(true)).once("error", () => done(false)),
    );
    await Promise.all([server, next].map((s) => new Promise((done) => s.close(done))));
    if (free && port < 65_534) return port;
  }
}
