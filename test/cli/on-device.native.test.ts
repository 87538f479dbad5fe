/**
 * Where eval, infer and serve compute: the choice, the refusal, and the environment of the process
 * on a GPU. No GPU is needed.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { onDevice } from "../../src/cli/on-device.js";
import { smiList } from "../../src/machine/gpus.js";
import { actorLibraryPath } from "../../src/machine/onnx-provider.js";
import { whyNoCuda } from "../../src/doctor/describe.js";
import { until } from "../support/run.js";

vi.mock("../../src/machine/gpus.js");
vi.mock("../../src/machine/onnx-provider.js");
vi.mock("../../src/doctor/describe.js");

const fixture = fileURLToPath(new URL("../fixtures/say-environment.mjs", import.meta.url));
/** Runs in the child's place where this process computes. */
const here = vi.fn<(device: string) => Promise<void>>();
let stderr = "";
beforeEach(() => {
  stderr = "";
  here.mockReset().mockResolvedValue();
  vi.mocked(smiList).mockReset().mockReturnValue("GPU 0: A (UUID: GPU-0a)\nGPU 1: B (UUID: GPU-0b)\n");
  vi.mocked(actorLibraryPath).mockReset().mockReturnValue(["/cuda/cublas", "/cuda/cudnn"]);
  vi.mocked(whyNoCuda).mockReset().mockResolvedValue(null);
  for (const name of ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"]) vi.stubEnv(name, undefined);
  vi.stubEnv("LD_LIBRARY_PATH", "/mine");
  vi.spyOn(process.stderr, "write").mockImplementation((text) => ((stderr += String(text)), true));
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

describe("the choice", () => {
  test("cpu looks for nothing", async () => {
    await onDevice("cpu", here);
    expect(here.mock.calls).toEqual([["cpu"]]);
    expect(smiList).not.toHaveBeenCalled();
  });

  test("auto without a GPU is the CPU, and nothing is said", async () => {
    vi.mocked(smiList).mockReturnValue(null);
    await onDevice("auto", here);
    expect(here.mock.calls).toEqual([["cpu"]]);
    expect(whyNoCuda).not.toHaveBeenCalled();
    expect(stderr).toBe("");
  });

  test("auto with a GPU that cannot be used is the CPU, and says why", async () => {
    vi.mocked(whyNoCuda).mockResolvedValue({ missing: "libcudnn.so.9: not there", report: "" });
    await onDevice("auto", here);
    expect(here.mock.calls).toEqual([["cpu"]]);
    expect(stderr).toBe("There is a GPU, and CUDA cannot be used (libcudnn.so.9: not there): computing on the CPU.\n");
  });

  test("cuda that cannot be used is refused with the report; only what actors need is looked at", async () => {
    vi.mocked(whyNoCuda).mockResolvedValue({ missing: "x", report: "NVIDIA driver  none" });
    await expect(onDevice("cuda", here)).rejects.toThrow(
      "--device cuda: CUDA cannot be used on this machine.\nNVIDIA driver  none",
    );
    expect(here).not.toHaveBeenCalled();
    expect(vi.mocked(whyNoCuda).mock.calls).toEqual([[["actors"]]]);
  });

  test.each(["auto", "cuda"] as const)("%s in the prepared process is its GPU", async (asked) => {
    vi.stubEnv("FINELLAMA_PREPARED_DEVICE", "cuda");
    await onDevice(asked, here);
    expect(here.mock.calls).toEqual([["cuda"]]);
  });
});

describe("the process on a GPU", () => {
  test.each(["auto", "cuda"] as const)(
    "%s: the command again, with one GPU, an actor's library path before the user's own, and no second choice",
    async (asked) => {
      // its exit code tells whether it found these
      const expected = {
        CUDA_VISIBLE_DEVICES: "GPU-0a",
        LD_LIBRARY_PATH: "/cuda/cublas:/cuda/cudnn:/mine",
        FINELLAMA_PREPARED_DEVICE: "cuda",
      };
      await onDevice(asked, here, [fixture, "check", JSON.stringify(expected)]);
      expect(process.exitCode).toBe(0);
      expect(here).not.toHaveBeenCalled();
    },
  );

  test("its exit code, or its signal, is the command's", async () => {
    await onDevice("cuda", here, [fixture, "check", '{"CUDA_VISIBLE_DEVICES": "GPU-0b"}']);
    expect(process.exitCode).toBe(5);
    await onDevice("cuda", here, [fixture, "die"]);
    expect(process.exitCode).toBe(128 + 15);
  });

  test("a signal to this process is passed on", async () => {
    const ready = join(mkdtempSync(join(tmpdir(), "device-")), "ready");
    const before = process.listeners("SIGTERM");
    const running = onDevice("cuda", here, [fixture, "wait-for-SIGTERM", ready]);
    await until(() => existsSync(ready));
    const [pass, ...others] = process.listeners("SIGTERM").filter((listener) => !before.includes(listener));
    expect(others).toEqual([]);
    pass!("SIGTERM");
    await running;
    expect(process.exitCode).toBe(7);
    expect(process.listeners("SIGTERM")).toEqual(before);
    rmSync(dirname(ready), { recursive: true });
  });
});

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const starter = fileURLToPath(new URL("../../assets/starter", import.meta.url));
// as processes they need the build, which `npm test` makes first; a GPU would answer otherwise
describe.skipIf(!existsSync(cli))("on this machine, without a GPU (CUDA_VISIBLE_DEVICES hides any)", () => {
  test.each([
    ["eval", ["--model", starter, "--data", "starter", "--out", "/nowhere/out"]],
    ["infer", [starter, "--prompt", "Hi"]],
    ["serve", [starter, "--port", "0"]],
  ])("%s --device cuda ends before it starts, with doctor's report", (command, args) => {
    const env = { ...process.env, CUDA_VISIBLE_DEVICES: "" };
    const { status, stdout, stderr } = spawnSync(process.execPath, [cli, command, ...args, "--device", "cuda"], {
      env,
      encoding: "utf8",
    });
    expect([status, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^error: --device cuda: CUDA cannot be used on this machine\.\nmachine .*\nNVIDIA driver /);
    expect(stderr).toMatch(/in this order:\n- /);
  });
});
