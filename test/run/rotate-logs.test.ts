import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { rotateLogs } from "../../src/run/rotate-logs.js";

test("a log that grows is moved aside, its writer goes on, and at most two parts are kept", () => {
  const run = mkdtempSync(join(tmpdir(), "logs-"));
  const file = join(run, "logs/actor-0.log");
  rotateLogs(run); // no logs yet
  mkdirSync(join(run, "logs"));
  const fd = openSync(file, "a");
  for (const part of ["a", "b", "c"]) {
    writeSync(fd, part.repeat(101));
    rotateLogs(run, 100);
  }
  writeSync(fd, "tail");
  rotateLogs(run, 100);
  expect(readFileSync(file, "utf8")).toBe("tail");
  expect(readFileSync(`${file}.1`, "utf8")).toBe("c".repeat(101));
  expect(readdirSync(join(run, "logs")).sort()).toEqual(["actor-0.log", "actor-0.log.1"]);
  closeSync(fd);
  rmSync(run, { recursive: true });
});
