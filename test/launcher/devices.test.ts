import { describe, expect, test } from "vitest";
import { runConfigSchema } from "../../src/config/schema.js";
import { assignDevices, deviceEnv, visibleGpus } from "../../src/launcher/devices.js";

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

describe("assignment", () => {
  const plan = (gpus: string[], actors: object = {}, learner: object = {}, serial = false) =>
    assignDevices(gpus, runConfigSchema.parse({ actors: { device: "cuda", ...actors }, learner }), serial);

  test("without a GPU everybody computes on the CPU", () => {
    expect(plan([], { num: 2 })).toEqual({ learner: null, actors: [null, null] });
  });

  test("one GPU is shared by all", () => {
    expect(plan(["0"], { num: 2 })).toEqual({ learner: "0", actors: ["0", "0"] });
  });

  test("of several the learner has the first to itself, actors the rest", () => {
    expect(plan(["0", "1"], { num: 1 })).toEqual({ learner: "0", actors: ["1"] });
    expect(plan(["a", "b", "c", "d"], { num: 3 })).toEqual({ learner: "a", actors: ["b", "c", "d"] });
  });

  test("actors beyond the number of GPUs share, evenly", () => {
    expect(plan(["0", "1", "2"], { num: 5 }).actors).toEqual(["1", "2", "1", "2", "1"]);
  });

  test("a side on the CPU leaves its GPU to the other", () => {
    expect(plan(["0", "1"], { num: 2 }, { device: "cpu" })).toEqual({ learner: null, actors: ["0", "1"] });
    expect(plan(["0", "1"], { num: 2 }, { backend: "wasm" })).toEqual({ learner: null, actors: ["0", "1"] });
    expect(plan(["0", "1"], { num: 2, device: "cpu" })).toEqual({ learner: "0", actors: [null, null] });
  });

  test("serial: one process, one GPU", () => {
    expect(plan(["0", "1"], {}, {}, true)).toEqual({ learner: "0", actors: [] });
    expect(plan(["0"], { device: "cpu" }, { device: "cpu" }, true)).toEqual({ learner: null, actors: [] });
  });
});

test("environment: one GPU, growing memory, own libraries first; none on the CPU", () => {
  expect(deviceEnv("GPU-a", ["/l"], { LD_LIBRARY_PATH: "/mine" })).toEqual({
    CUDA_VISIBLE_DEVICES: "GPU-a",
    TF_FORCE_GPU_ALLOW_GROWTH: "true",
    LD_LIBRARY_PATH: "/l:/mine",
  });
  expect(deviceEnv("0", [], {})).not.toHaveProperty("LD_LIBRARY_PATH");
  expect(deviceEnv(null, ["/l"], {})).toEqual({ CUDA_VISIBLE_DEVICES: "" });
});
