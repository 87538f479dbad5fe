/** CUDA's libraries from NVIDIA's wheels, a folder each: an interrupted setup goes on. */
import { existsSync } from "node:fs";
import { readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { cacheRoot, fetchWheel, fillBeside, wheel, type Wheel } from "./wheels.js";

export type CudaMajor = "12" | "13";

/** tensorflow 2.21.0's `and-cuda` extra without nvcc; newest 12.x, which ONNX Runtime needs. */
const CUDA_12: readonly Wheel[] = [
  wheel("nvidia-cublas-cu12", "12.9.3.13", 581, "d7d51055f161b317c7105ddaae90e71eda059026074ffef93cf7cde2886bfe72"),
  wheel("nvidia-cuda-cupti-cu12", "12.8.90", 10, "ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182"),
  wheel("nvidia-cuda-nvrtc-cu12", "12.9.86", 90, "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4"),
  wheel("nvidia-cuda-runtime-cu12", "12.9.79", 3, "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3"),
  wheel("nvidia-cudnn-cu12", "9.28.0.42", 717, "9ff58b7f36dacd0a93e89f8f2957b52466889217963701daa15e577317cfa375"),
  wheel("nvidia-cufft-cu12", "11.4.1.4", 201, "c67884f2a7d276b4b80eb56a79322a95df592ae5e765cf1243693365ccab4e28"),
  wheel("nvidia-curand-cu12", "10.3.10.19", 68, "49b274db4780d421bd2ccd362e1415c13887c53c214f0d4b761752b8f9f6aa1e"),
  wheel("nvidia-cusolver-cu12", "11.7.5.82", 338, "15da72d1340d29b5b3cf3fd100e3cd53421dde36002eda6ed93811af63c40d88"),
  wheel("nvidia-cusparse-cu12", "12.5.10.65", 366, "73060ce019ac064a057267c585bf1fd5a353734151f87472ff02b2c5c9984e78"),
  wheel("nvidia-nccl-cu12", "2.32.3", 352, "bb94b2348e4861d5e8aa00b36c3d12d9bdf9c6369b82cbb723de0b582280a21c"),
  wheel("nvidia-nvjitlink-cu12", "12.9.86", 40, "e3f1171dbdc83c5932a45f0f4c99180a70de9bd2718c1ab77d14104f6d7147f9"),
];

/** What onnxruntime-gpu 1.30.0's provider opens. */
const CUDA_13: readonly Wheel[] = [
  wheel("nvidia-cublas", "13.10.0.20", 444, "dcc6d63884c53d07e267ce7e6feac17b2538cebaafec5db865736c3e28e4dc84"),
  wheel("nvidia-cuda-runtime", "13.5.37", 3, "df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d"),
  wheel("nvidia-cudnn-cu13", "9.28.1.4", 517, "a54f205b1db1f2895d99f398754db1369816f0569dd459731f925635cf7b65ec"),
  wheel("nvidia-cufft", "12.5.0.14", 165, "b8be26837a5abad2b5b74f3e92dd29f622a42934b355be0961a48712cbba23ad"),
  wheel("nvidia-curand", "10.4.5.25", 77, "22bb226a857e5888fe6b54ae465fc4371296bcff13a35f79e19691bcf454f529"),
  wheel("nvidia-nvjitlink", "13.5.37", 47, "280d7cb9649704145f074b8dbde500de04ce02d0872e066e20a83c17bcaa93eb"),
  wheel("nvidia-cuda-nvrtc", "13.5.37", 58, "86b4d68058807988b7d9af5b44917a0601e9c337f35ccd657bfb3c759ff8d8bc"),
];

const WHEELS: Record<CudaMajor, readonly Wheel[]> = { "12": CUDA_12, "13": CUDA_13 };

/** The libraries of a wheel that are used: no front ends, and NVRTC only once. */
const SHARED_OBJECTS = String.raw`nvidia/.*/lib/(?!libnvblas|libcufftw|libcusolverMg|libnvrtc.*alt)lib[^/]*\.so[.\d]*$`;

export const cudaWheels = (major: CudaMajor): readonly Wheel[] => WHEELS[major];

export const wheelFolder = (major: CudaMajor, { name, version }: Wheel, root = cacheRoot()): string =>
  join(root, `cuda-${major}`, `${name}-${version}`);

/** Folders for LD_LIBRARY_PATH that are prepared; none where the system's own must do. */
export const cudaLibraryPath = (major: CudaMajor): string[] =>
  cudaWheels(major)
    .map((each) => wheelFolder(major, each))
    .filter((folder) => existsSync(folder));

/** Downloads what is not there yet. @throws Error with one clause that says what failed */
export async function prepareCudaLibraries(
  python: string,
  major: CudaMajor,
  log: (line: string) => void,
  { root = cacheRoot(), wheels = cudaWheels(major) } = {},
): Promise<void> {
  for (const each of wheels) {
    const target = wheelFolder(major, each, root);
    if (existsSync(target)) continue;
    log(`${each.name} ${each.version} (${each.megabytes} MB)`);
    await fillBeside(target, async (folder) => {
      await fetchWheel(python, each, folder, SHARED_OBJECTS, log);
      const packed = join(folder, "nvidia");
      const entries = await readdir(packed, { withFileTypes: true, recursive: true });
      const files = entries.filter((entry) => entry.isFile());
      if (files.length === 0) throw new Error(`${each.name} ${each.version} holds no library`);
      for (const file of files) await rename(join(file.parentPath, file.name), join(folder, file.name));
      await rm(packed, { recursive: true });
    });
  }
}
