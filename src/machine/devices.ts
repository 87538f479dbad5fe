/** Which GPUs this process may use, and the environment that shows a child one, as device 0. */

/**
 * The GPUs this process may use, as CUDA_VISIBLE_DEVICES (which decides when set) names them. Else
 * nvidia-smi's list decides; SLURM_JOB_GPUS picks from it when it lists more than the job has.
 */
export function visibleGpus(env: Readonly<Record<string, string | undefined>>, smiList: string | null): string[] {
  const given = env["CUDA_VISIBLE_DEVICES"];
  if (given !== undefined) return namesOf(given);
  const listed = parseSmiList(smiList ?? "");
  const ofJob = namesOf(env["SLURM_JOB_GPUS"] ?? "");
  if (listed.length === 0) return ofJob.map((_, index) => String(index));
  const chosen = listed.filter(({ gpu }) => ofJob.includes(gpu));
  const gpusListed = new Set(listed.map(({ gpu }) => gpu)).size;
  return (ofJob.length > 0 && gpusListed > ofJob.length && chosen.length > 0 ? chosen : listed).map(({ uuid }) => uuid);
}

/** The entries before the first that names no device: CUDA ignores that one and all after it. */
function namesOf(list: string): string[] {
  const names = list.split(",").map((name) => name.trim());
  const end = names.findIndex((name) => !/^(\d+|GPU-[\w-]+|MIG-[\w/-]+)$/.test(name));
  return [...new Set(end === -1 ? names : names.slice(0, end))];
}

/** Reads `GPU 0: … (UUID: GPU-…)` and MIG lines; a GPU with MIG devices computes on those alone. */
function parseSmiList(text: string): { gpu: string; uuid: string }[] {
  const devices: { gpu: string; uuid: string }[] = [];
  let gpu = "";
  for (const line of text.split("\n")) {
    const uuid = /\(UUID: ((?:GPU|MIG)-[^)]+)\)/.exec(line)?.[1];
    if (uuid === undefined) continue;
    const index = /^GPU (\d+):/.exec(line)?.[1];
    if (index !== undefined) gpu = index;
    else if (devices.at(-1)?.uuid.startsWith("GPU-") === true) devices.pop();
    devices.push({ gpu, uuid });
  }
  return devices;
}

/** The libraries' folders come before the user's. A process on the CPU sees no GPU. */
export function deviceEnv(
  device: string | null,
  libraryPath: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): NodeJS.ProcessEnv {
  if (device === null) return { CUDA_VISIBLE_DEVICES: "" };
  const path = [...libraryPath, env["LD_LIBRARY_PATH"] ?? ""].filter((folder) => folder !== "").join(":");
  return {
    CUDA_VISIBLE_DEVICES: device,
    // actor and learner may share this GPU: TensorFlow must not take all of its memory
    TF_FORCE_GPU_ALLOW_GROWTH: "true",
    // its own allocator doubles its regions and returns none of them
    TF_GPU_ALLOCATOR: env["TF_GPU_ALLOCATOR"] ?? "cuda_malloc_async",
    // kernels compiled for a GPU at their first use are more than the 1 GiB that is kept by default
    CUDA_CACHE_MAXSIZE: env["CUDA_CACHE_MAXSIZE"] ?? String(4 * 2 ** 30),
    ...(path !== "" && { LD_LIBRARY_PATH: path }),
  };
}
