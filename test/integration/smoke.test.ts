/** `doctor --smoke`: what a device computes first, beside the CPU. */
import { describe, expect, it } from "vitest";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { smiList } from "../../src/machine/gpus.js";
import { root } from "../support/run.js";

// It starts children beside itself, which only the built program has.
const { smoke } = (await import(join(root, "dist/doctor/smoke.js"))) as typeof import("../../src/doctor/smoke.js");

async function said(device: "cpu" | "cuda"): Promise<{ isRight: boolean; lines: string[] }> {
  const lines: string[] = [];
  const isRight = await smoke({ device, sizes: ["small"], rows: 16 }, (line) => lines.push(line));
  return { isRight, lines };
}

describe("a smoke test", () => {
  it("on the CPU computes what the CPU does, rounded to float16, and says how fast", { timeout: 120_000 }, async () => {
    const { isRight, lines } = await said("cpu");
    expect(lines).toEqual([
      "small, 2 layers, LoRA",
      expect.stringMatching(/^ {2}actor {4}right: float16 is \S+e-\d nats .*16 rows: \S+ ms a step, \d+ tokens\/s/),
      expect.stringMatching(
        /^ {2}learner {2}right: gradient's norm 0\.000 % .*816 tokens: \d+ ms a step, [1-9]\d+ operations/,
      ),
    ]);
    expect(lines[1]).not.toContain("0.0e+0 nats");
    expect(isRight).toBe(true);
  });

  it("is a command", { timeout: 120_000 }, () => {
    const { status, stdout } = spawnSync(process.execPath, ["dist/cli.js", "doctor", "--smoke", "small"], {
      cwd: root,
      encoding: "utf8",
    });
    expect(stdout).toMatch(
      /The CPU path works\.\nsmall, 2 layers, LoRA\n {2}actor {4}right: .*\n {2}learner {2}right: .*\n$/,
    );
    expect(status).toBe(0);
  });

  const hasGpu = smiList() !== null;
  it.skipIf(hasGpu)(
    "on a GPU that is not there says what fails on either side, and what to do",
    { timeout: 120_000 },
    async () => {
      const { isRight, lines } = await said("cuda");
      expect(isRight).toBe(false);
      expect(lines[1]).toMatch(
        /^ {2}actor {4}FAILS: .*ONNX Runtime makes no session there.*\n {11}doctor --cuda names/,
      );
      expect(lines[2]).toMatch(/^ {2}learner {2}FAILS: .*expected a GPU\n {11}doctor --cuda says why/);
    },
  );
});
