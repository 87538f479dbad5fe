/** One of many processes that find the same dead mark at once gets the directory. */
import { spawn } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, describe, expect, it } from "vitest";
import { cleanUp, reason, root, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);

const CLAIMANTS = 8;

/** Claims when stdin says so, says how it went, and holds the mark until stdin ends. */
const claimant = `
  const { claimOwnership } = await import(process.argv[1]);
  const [dir, file] = process.argv.slice(2);
  process.stdout.write("ready\\n");
  process.stdin.once("data", () => {
    try {
      claimOwnership(dir, file, "wait");
      process.stdout.write("won");
    } catch (error) {
      process.stdout.write(error.message);
    }
  });
`;

describe.skipIf(unrunnable)(`a dead owner's directory${reason}`, () => {
  it.each([1, 2, 3, 4, 5])("goes to one of many, round %i", async () => {
    const dir = temporary();
    const file = join(dir, "owner.json");
    // no process of this number starts at this time
    writeFileSync(file, JSON.stringify({ host: (await import("node:os")).hostname(), pid: process.pid, started: "1" }));
    const all = Array.from({ length: CLAIMANTS }, () => {
      const words = ["--input-type=module", "-e", claimant, join(root, "dist/run/owner.js"), dir, file];
      return spawn(process.execPath, words, { stdio: ["pipe", "pipe", "inherit"] });
    });
    await Promise.all(all.map((one) => new Promise((ready) => one.stdout.once("data", ready))));
    const said = all.map((one) => text(one.stdout));
    for (const one of all) one.stdin.write("go\n");
    const told = all.map((one) => new Promise((done) => one.stdout.once("data", done)));
    await Promise.all(told);
    for (const one of all) one.stdin.end();
    const outcomes = await Promise.all(said);
    expect(outcomes.filter((outcome) => outcome === "won")).toHaveLength(1);
    for (const outcome of outcomes) expect(outcome).toMatch(/^won$|is being run by process \d+/);
    expect(readdirSync(dir)).toEqual(["owner.json"]);
  });
});
