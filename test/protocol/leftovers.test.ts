/** What a killed process leaves is removed at once; what a living one uses is not. */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { once } from "node:events";
import { expect, it } from "vitest";
import { ownFolder, removeAbandoned } from "../../src/protocol/leftovers.js";
import { processStat } from "../../src/protocol/process-stat.js";

it("removes the folders of dead processes and of pids that were used again, and no others", () => {
  const root = mkdtempSync(join(tmpdir(), "leftovers-"));
  try {
    const mine = basename(ownFolder(root));
    const [, namespace, pid, started] = /^frl-(\d+)-(\d+)-(\d+)-/.exec(mine)!;
    expect(Number(pid)).toBe(process.pid);
    expect(started).toBe(processStat(process.pid)!.started);
    const dead = 2 ** 22 + 1; // beyond the kernel's largest pid
    const kept = [`frl-1-${dead}-5-elsewhere`, "frl-old-form", "somebody-else", mine];
    const gone = [`frl-${namespace}-${dead}-5-a`, `frl-${namespace}-${process.pid}-${Number(started) - 1}-b`];
    for (const name of [...kept, ...gone]) mkdirSync(join(root, name), { recursive: true });
    removeAbandoned([root]);
    expect(readdirSync(root).toSorted()).toEqual(kept.toSorted());
  } finally {
    rmSync(root, { recursive: true });
  }
});

it("a process that was killed and that nobody has waited for is gone", async () => {
  // the shell becomes a program that never asks after its child
  const parent = spawn("sh", ["-c", "sleep 0 & echo $!; exec sleep 60"], { stdio: ["ignore", "pipe", "ignore"] });
  try {
    const [pid] = (await once(parent.stdout, "data")) as [Buffer];
    await expect.poll(() => processStat(Number(pid)), { timeout: 20_000 }).toBeNull();
    process.kill(Number(pid), 0); // it has its number still
  } finally {
    parent.kill("SIGKILL");
  }
});
