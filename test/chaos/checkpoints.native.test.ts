/**
 * A run that is killed while it writes checkpoints, or whose disk is full, goes on exactly where it
 * was: its last checkpoint is that of an undisturbed run, bit for bit. CHAOS=full: 50 kills.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, watch } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Draw } from "../../src/math/random.js";
import { checkpointFolder, checkpointsFolder } from "../../src/run/paths.js";
import { launchSmall, leftovers, printed } from "../support/chaos.js";
import {
  type Running,
  cleanUp,
  iterationsOf,
  livingMembers,
  reason,
  start,
  temporary,
  unrunnable,
} from "../support/run.js";

const isFull = process.env["CHAOS"] === "full";
const seed = Number(process.env["FC_SEED"] ?? 1);
const kills = isFull ? 50 : 4;
/** A kill loses at most the iteration whose checkpoint it hits. */
const steps = kills + 4;
/** KiB of file systems that are full in the journal, or in one of the first checkpoints. */
const sizes = isFull ? [24, 64, 8_000, 20_000, 30_000, 36_000] : [20_000];

const killed = new Set<number>();
const mounted: string[] = [];
afterAll(() => {
  for (const folder of mounted.splice(0)) execFileSync("umount", ["--lazy", folder]);
  cleanUp();
});

/** A file system of that size; null where this process may not mount one. */
function smallDisk(kib: number): string | null {
  const folder = join(temporary(), "disk");
  mkdirSync(folder);
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${kib}k`, "none", folder], { stdio: "ignore" });
  } catch {
    return null;
  }
  mounted.push(folder);
  return folder;
}

const serial = (runDir: string): Running =>
  existsSync(join(runDir, "config.json"))
    ? start("launch", ["--run-dir", runDir, "--resume"])
    : launchSmall(
        runDir,
        ...`--serial --save_steps=1 --save_total_limit=2 --eval.num_problems=2 --max-steps ${steps}`.split(" "),
      );

/** Every file of a checkpoint but what names the moment, as hex. */
function checkpointBytes(runDir: string, step: number): Record<string, string> {
  const folder = checkpointFolder(runDir, step);
  const sums = JSON.parse(readFileSync(join(folder, "checksums.json"), "utf8")) as Record<string, string>;
  delete sums["training_state.json"]; // holds how long the run has taken
  return sums;
}

/** Kills the process group soon after the next checkpoint is begun. @returns what was there */
function killWhileSaving(runDir: string, pid: number, draw: Draw): Promise<string> {
  const root = checkpointsFolder(runDir);
  mkdirSync(root, { recursive: true });
  const delay = draw.int(0, 120);
  return new Promise((resolve) => {
    const watcher = watch(root, (_, name) => {
      if (name?.includes(".tmp-") !== true || !existsSync(join(root, name))) return;
      watcher.close();
      setTimeout(() => {
        for (const member of livingMembers(pid)) killed.add(member);
        process.kill(-pid, "SIGKILL");
        resolve(existsSync(join(root, name)) ? readdirSync(join(root, name)).join(" ") || "nothing" : "renamed");
      }, delay);
    });
  });
}

describe.skipIf(unrunnable)(`checkpoints${reason}`, { timeout: isFull ? 1_800_000 : 180_000 }, () => {
  const calm = join(temporary(), "calm");
  beforeAll(async () => {
    const { code, stderr } = await serial(calm).ended;
    expect(code, stderr).toBe(0);
  }, 600_000);

  it(`killed ${kills} times while one is written: resumed each time, exactly`, async () => {
    const draw = new Draw(seed);
    const runDir = join(temporary(), "run");
    const hits: Record<string, number> = {};
    for (let kill = 0; kill < kills; kill++) {
      const { pid, ended } = serial(runDir);
      const hit = await Promise.race([killWhileSaving(runDir, pid, draw), ended]);
      if (typeof hit !== "string") throw new Error(`ended before kill ${kill}: ${hit.stderr}`);
      hits[hit] = (hits[hit] ?? 0) + 1;
      await ended;
    }
    if (isFull) console.log(JSON.stringify(hits, null, 1));
    const { code, stderr } = await serial(runDir).ended;
    expect(code, stderr).toBe(0);
    expect(iterationsOf(runDir)).toEqual(iterationsOf(calm));
    expect(checkpointBytes(runDir, steps)).toEqual(checkpointBytes(calm, steps));
    expect(readdirSync(checkpointsFolder(runDir)).filter((name) => name.includes("tmp"))).toEqual([]);
    expect(leftovers([...killed])).toEqual([]);
  });

  it.each(sizes)("on a disk of %i KiB: ends with the reason, and goes on exactly with more room", async (kib) => {
    const disk = smallDisk(kib);
    if (disk === null) return expect(process.getuid?.() === 0 && isFull, "root may mount").toBe(false);
    const runDir = join(disk, "run");
    const full = await serial(runDir).ended;
    expect(full.code).toBe(1);
    expect(full.stderr, printed(runDir)).toMatch(/disk is full|expected room for a checkpoint/);
    expect(full.stderr).not.toMatch(/^\s+at /m);
    if (isFull) console.log(kib, iterationsOf(runDir).length, full.stderr.trim());
    execFileSync("mount", ["-o", "remount,size=1g", disk]);
    const { code, stderr } = await serial(runDir).ended;
    expect(code, stderr).toBe(0);
    expect(checkpointBytes(runDir, steps)).toEqual(checkpointBytes(calm, steps));
  });
});
