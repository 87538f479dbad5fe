/** ONNX Runtime's telemetry is off in every process that loads it: it leaves no file. */
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { SMALL } from "../support/chaos.js";
import { cleanUp, reason, run, starter, temporary, unrunnable } from "../support/run.js";

afterAll(cleanUp);

describe.skipIf(unrunnable)(`no telemetry${reason}`, { timeout: 120_000 }, () => {
  /** Runs a command with folders of its own, and lists what it left in them. */
  async function filesOf(entry: "launch" | "cli", args: readonly string[]): Promise<string[]> {
    const [home, tmp] = [temporary(), temporary()];
    mkdirSync(join(home, ".cache"));
    const { XDG_CACHE_HOME: _, ORT_DISABLE_TELEMETRY: __, ...env } = process.env;
    const { code, stderr } = await run(entry, args, { env: { ...env, HOME: home, TMPDIR: tmp } });
    expect(code, stderr).toBe(0);
    return [home, tmp].flatMap((folder) => readdirSync(folder, { recursive: true, encoding: "utf8" }));
  }
  // the library's are Microsoft/DeveloperTools/.onnxruntime and mat-debug-<pid>.log
  const telemetry = /microsoft|onnxruntime|mat-debug|\.ses$/i;

  it("in infer, whose engine is in a thread", async () => {
    const files = await filesOf("cli", ["infer", starter, "--prompt", "2+2?", "--max-new-tokens", "4"]);
    expect(files.filter((file) => telemetry.test(file))).toEqual([]);
  });

  it("in the actors of a run, and in a serial one", async () => {
    for (const more of [[], ["--serial"]]) {
      const runDir = join(temporary(), "run");
      const args = ["--run-dir", runDir, "--max-steps", "1", ...SMALL, ...more];
      const files = await filesOf("launch", args);
      expect(files.filter((file) => telemetry.test(file))).toEqual([]);
    }
  });
});
