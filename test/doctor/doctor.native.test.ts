import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { doctor } from "../../src/cli/doctor.js";
import { describeMachine } from "../../src/doctor/describe.js";
import { cpuWorks, cudaGaps } from "../../src/doctor/gaps.js";
import { inspectMachine, type MachineFacts } from "../../src/doctor/inspect.js";

vi.mock("../../src/doctor/inspect.js");

const found = (name: string) => ({ name, path: `/cuda/${name}`, error: null });
const lost = (name: string) => ({
  name,
  path: null,
  error: `${name}: cannot open shared object file: No such file or directory`,
});

/** A machine on which all is well. */
const well: MachineFacts = {
  node: "v20.20.2",
  platform: "linux x64",
  cores: 16,
  ramBytes: 128e9,
  driver: "550.54.15",
  gpus: [{ name: "NVIDIA A100-SXM4-80GB", memoryMiB: 81920, computeMode: "Default" }],
  visibleGpus: ["GPU-aa"],
  learner: {
    build: "cuda",
    backend: { name: "tensorflow", library: "libtensorflow 2.21.0", usesGpu: true },
    passedOver: [],
    libraryPath: ["/cuda"],
    libraries: ["libcuda.so.1", "libcudart.so.12", "libcudnn.so.9"].map(found),
  },
  actors: {
    onnxruntime: "1.30.0",
    provider: "12",
    providers: { cpu: null, cuda: null },
    libraryPath: ["/cuda"],
    libraries: ["libcuda.so.1", "libcudnn.so.9"].map(found),
  },
};
const onCpu = { ...well.learner.backend!, usesGpu: false };
const learner = (changes: Partial<MachineFacts["learner"]>): MachineFacts => ({
  ...well,
  learner: { ...well.learner, backend: onCpu, ...changes },
});
const actors = (changes: Partial<MachineFacts["actors"]>): MachineFacts => ({
  ...well,
  actors: { ...well.actors, ...changes },
});
const told = (machine: MachineFacts) =>
  cudaGaps(machine).map(({ side, missing, cure }) => `${side}: ${missing} -> ${cure}`);

describe("gaps", () => {
  test("there are none where all is well, and the report says so", () => {
    expect(told(well)).toEqual([]);
    const report = describeMachine(well, []);
    expect(report).toContain("CUDA can be used by learner and actors.");
    expect(report).toContain("NVIDIA A100-SXM4-80GB (80 GiB)");
    expect(report).toContain("libtensorflow 2.21.0 on the GPU, CUDA build");
  });

  test.each<[string, MachineFacts, RegExp]>([
    ["no driver", { ...well, driver: null, gpus: [], visibleGpus: [] }, /^both: no NVIDIA driver.*--gpus=1.*--nv/],
    ["a driver without a GPU", { ...well, gpus: [], visibleGpus: [] }, /^both: a driver and no GPU/],
    ["a hidden GPU", { ...well, visibleGpus: [] }, /^both: CUDA_VISIBLE_DEVICES hides every GPU/],
    ["an old driver", { ...well, driver: "470.82" }, /^both: driver 470.82 is too old for CUDA 12, which needs 525/],
    [
      "a driver too old for the actors' CUDA 13",
      { ...actors({ provider: "13" }), driver: "550.54" },
      /^actors: .*too old for CUDA 13.*580.*cuda-compat-13.*provider built for CUDA 12/,
    ],
    [
      "a GPU that one process may use",
      { ...well, gpus: [{ ...well.gpus[0]!, computeMode: "Exclusive_Process" }] },
      /^both: NVIDIA A100.* is in compute mode Exclusive_Process.*-> nvidia-smi -c DEFAULT/,
    ],
    [
      "TensorFlow's CPU build",
      learner({ build: "cpu" }),
      /^learner: TensorFlow's CPU build is in place -> node dist\/cli.js setup --cuda/,
    ],
    ["no TensorFlow", learner({ build: null, backend: null }), /^learner: no native TensorFlow/],
    [
      "a library that TensorFlow opens: the first by name, the others counted",
      learner({
        libraries: [lost("libcuda.so.1"), found("libcudart.so.12"), lost("libcublas.so.12"), lost("libcudnn.so.9")],
      }),
      /^learner: libcublas.so.12: cannot open shared object file: No such file or directory \(and 1 more\) -> .*setup --cuda/,
    ],
    [
      "a container without the driver's library",
      learner({ libraries: [lost("libcuda.so.1")] }),
      /^learner: libcuda.so.1: cannot open.*exec --nv/,
    ],
    ["TensorFlow that takes no GPU for no visible reason", learner({}), /^learner: TensorFlow takes no GPU/],
    [
      "no provider",
      actors({ provider: null, providers: { cpu: null, cuda: "x" } }),
      /^actors: ONNX Runtime's CUDA provider is not installed/,
    ],
    [
      "a library that the provider needs",
      actors({ providers: { cpu: null, cuda: "x" }, libraries: [lost("libcudnn.so.9")] }),
      /^actors: libcudnn.so.9: cannot open/,
    ],
    [
      "a provider that fails for another reason",
      actors({ providers: { cpu: null, cuda: "out of memory" } }),
      /^actors: .*does not load \(out of memory\)/,
    ],
    [
      "another system",
      { ...well, platform: "darwin arm64" },
      /^both: CUDA is set up on Linux x64 only, this is darwin arm64/,
    ],
  ])("%s", (_, machine, expected) => {
    const gaps = told(machine);
    expect(gaps[0]).toMatch(expected);
    expect(describeMachine(machine, cudaGaps(machine))).toContain("CUDA cannot be used as it is");
  });

  test("the CPU path needs a backend and ONNX Runtime, and no GPU", () => {
    expect(cpuWorks(well)).toBe(true);
    expect(cpuWorks({ ...learner({ build: null }), driver: null, gpus: [] })).toBe(true);
    expect(cpuWorks(learner({ backend: null }))).toBe(false);
    expect(cpuWorks(actors({ providers: { cpu: "broken", cuda: null } }))).toBe(false);
  });
});

describe("doctor", () => {
  const outcome = async (machine: MachineFacts, cuda: boolean) => {
    vi.mocked(inspectMachine).mockResolvedValueOnce(machine);
    const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    try {
      return await doctor({ cuda, json: false }).then(
        () => "well",
        (error: unknown) => (error as Error).message,
      );
    } finally {
      expect(write).toHaveBeenCalledOnce();
      write.mockRestore();
    }
  };

  test("fails for want of CUDA only when CUDA is asked for, after its report", async () => {
    const noDriver = { ...well, driver: null, gpus: [] };
    expect(await outcome(well, true)).toBe("well");
    expect(await outcome(noDriver, false)).toBe("well");
    expect(await outcome(noDriver, true)).toMatch(/^CUDA cannot be used/);
    expect(await outcome(learner({ backend: null }), false)).toMatch(/^The CPU path cannot be used/);
  });
});

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const launch = fileURLToPath(new URL("../../dist/launch.js", import.meta.url));
// as processes they need the build, which `npm test` makes first; a GPU would answer otherwise
describe.skipIf(!existsSync(cli))("on this machine, without a GPU (CUDA_VISIBLE_DEVICES hides any)", () => {
  const env = { ...process.env, CUDA_VISIBLE_DEVICES: "" };
  const run = (script: string, ...args: string[]) =>
    spawnSync(process.execPath, [script, ...args], { env, encoding: "utf8" });

  test("doctor finds the CPU path working, and what CUDA lacks", () => {
    const { status, stdout, stderr } = run(cli, "doctor", "--json");
    expect([status, stderr]).toEqual([0, ""]);
    const report = JSON.parse(stdout) as MachineFacts & { ok: object; gaps: object[] };
    expect(report.ok).toEqual({ cpu: true, cuda: false });
    expect(report.gaps.length).toBeGreaterThan(0);
    expect(report.actors.providers["cpu"]).toBeNull();
  });

  test("a run that asks for CUDA ends before it starts, with the report", () => {
    const { status, stderr } = run(launch, "--actors.device=cuda", "--learner.device=cuda");
    expect(status).toBe(1);
    expect(stderr).toMatch(/^error: learner.device=cuda and actors.device=cuda: CUDA cannot be used on this machine/);
    expect(stderr).toMatch(/in this order:\n- /);
  });
});
