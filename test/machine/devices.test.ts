import { describe, expect, test } from "vitest";
import { deviceEnv, visibleGpus } from "../../src/machine/devices.js";

const gpu = (index: number) => `GPU ${index}: NVIDIA A100-SXM4-80GB (UUID: GPU-0000000${index}-aa)\n`;
const fourGpus = [0, 1, 2, 3].map(gpu).join("");
const sliced =
  gpu(0) +
  "  MIG 3g.40gb     Device  0: (UUID: MIG-11111111-aa)\n" +
  "  MIG 3g.40gb     Device  1: (UUID: MIG-22222222-bb)\n" +
  gpu(1);

describe("visible GPUs", () => {
  test.each([
    ["no driver", {}, null, []],
    ["nvidia-smi lists what there is", {}, fourGpus, [0, 1, 2, 3].map((i) => `GPU-0000000${i}-aa`)],
    ["CUDA_VISIBLE_DEVICES decides", { CUDA_VISIBLE_DEVICES: "2,0" }, fourGpus, ["2", "0"]],
    ["names as UUIDs", { CUDA_VISIBLE_DEVICES: "GPU-aa, MIG-bb" }, null, ["GPU-aa", "MIG-bb"]],
    ["older MIG names", { CUDA_VISIBLE_DEVICES: "MIG-GPU-aa/7/0" }, null, ["MIG-GPU-aa/7/0"]],
    ["an empty list hides all", { CUDA_VISIBLE_DEVICES: "" }, fourGpus, []],
    ["as does -1", { CUDA_VISIBLE_DEVICES: "-1" }, fourGpus, []],
    ["what follows an invalid entry is hidden", { CUDA_VISIBLE_DEVICES: "1,-1,2" }, fourGpus, ["1"]],
    ["one named twice is one", { CUDA_VISIBLE_DEVICES: "1,1" }, fourGpus, ["1"]],
    ["MIG devices stand for their GPU", {}, sliced, ["MIG-11111111-aa", "MIG-22222222-bb", "GPU-00000001-aa"]],
    ["a job's share of a node", { SLURM_JOB_GPUS: "1,3" }, fourGpus, ["GPU-00000001-aa", "GPU-00000003-aa"]],
    ["a node that hides the others", { SLURM_JOB_GPUS: "6" }, gpu(0), ["GPU-00000000-aa"]],
    ["a job without nvidia-smi", { SLURM_JOB_GPUS: "2,3" }, null, ["0", "1"]],
    ["CUDA_VISIBLE_DEVICES before the job's", { CUDA_VISIBLE_DEVICES: "0", SLURM_JOB_GPUS: "3" }, null, ["0"]],
  ])("%s", (_, env, list, expected) => {
    expect(visibleGpus(env, list)).toEqual(expected);
  });
});

test("environment: one GPU, growing memory that is given back, own libraries first; none on the CPU", () => {
  expect(deviceEnv("GPU-a", ["/l"], { LD_LIBRARY_PATH: "/mine" })).toEqual({
    CUDA_VISIBLE_DEVICES: "GPU-a",
    TF_FORCE_GPU_ALLOW_GROWTH: "true",
    TF_GPU_ALLOCATOR: "cuda_malloc_async",
    CUDA_CACHE_MAXSIZE: "4294967296",
    LD_LIBRARY_PATH: "/l:/mine",
  });
  expect(deviceEnv("0", [], { TF_GPU_ALLOCATOR: "" })).toMatchObject({ TF_GPU_ALLOCATOR: "" });
  expect(deviceEnv("0", [], {})).not.toHaveProperty("LD_LIBRARY_PATH");
  expect(deviceEnv(null, ["/l"], {})).toEqual({ CUDA_VISIBLE_DEVICES: "" });
});
