/**
 * ONNX Runtime's CUDA provider, which npm's package leaves out; node_modules links to the cache.
 *   CUDA 13  PyPI's onnxruntime-gpu of the same version
 *   CUDA 12  onnxruntime-node's own install script, which takes it from NuGet. Since 1.27 what lies
 *            there may be built for CUDA 13 (microsoft/onnxruntime#29032), so the file decides.
 * The script can end with 0 having done nothing, so its result is looked at, not its exit code.
 */
import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { cp, rename, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { messageOf } from "../errors.js";
import { type CudaMajor, cudaLibraryPath } from "./cuda-libraries.js";
import { neededLibraries } from "./elf.js";
import { cacheRoot, fetchWheel, fillBeside, wheel } from "./wheels.js";

const run = promisify(execFile);

/** 300 MB from NuGet over a slow line. */
const INSTALL_TIMEOUT_MS = 30 * 60_000;
const PROVIDER = ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"];

/** The wheel that holds the provider for CUDA 13; its version must be onnxruntime-node's. */
export const ONNX_CUDA_13 = wheel(
  "onnxruntime-gpu",
  "1.30.0",
  247,
  "4fbf0c5d7b5fb99266c2e8a802e3e64af68bdc383e0f3c7349b985f1087eedaa",
);

const packageFolder = (): string => dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));

export const onnxVersion = (): string =>
  (JSON.parse(readFileSync(join(packageFolder(), "package.json"), "utf8")) as { version: string }).version;

/** Where libonnxruntime looks for providers. */
const binFolder = (): string => join(packageFolder(), "bin", "napi-v6", process.platform, process.arch);

export const providerFolder = (major: CudaMajor): string =>
  join(cacheRoot(), `onnxruntime-${onnxVersion()}-cuda${major}`);

/** The CUDA that the provider in place is linked to; undefined where none can be read. */
export function providerInPlace(bin = binFolder()): CudaMajor | undefined {
  const files = PROVIDER.map((name) => join(bin, name));
  return files.every((file) => existsSync(file)) ? cudaOf(files[1]!) : undefined;
}

/** The CUDA whose runtime or cuBLAS a library asks the loader for, whatever it is called. */
function cudaOf(file: string): CudaMajor | undefined {
  const linked = (neededLibraries(file) ?? []).map((name) => /^lib(?:cudart|cublas)\.so\.(1[23])$/.exec(name)?.[1]);
  return linked.find((major): major is CudaMajor => major !== undefined);
}

/** Folders in which an actor's process finds CUDA's libraries, those of the provider in place. */
export const actorLibraryPath = (): string[] => cudaLibraryPath(providerInPlace() ?? "12");

/** Puts the provider for CUDA `major` in place. @throws Error with one clause that says why not */
export async function prepareOnnxProvider(
  python: string,
  major: CudaMajor,
  log: (line: string) => void,
  { bin = binFolder(), cache = providerFolder(major), script = join(packageFolder(), "script", "install.js") } = {},
): Promise<void> {
  if (providerInPlace(bin) === major) return;
  if (!existsSync(cache))
    await fillBeside(cache, (folder) =>
      major === "12" ? fromNuGet(folder, bin, script, log) : fromPyPI(python, folder, log),
    );
  for (const name of PROVIDER) {
    await rm(join(bin, name), { force: true });
    await symlink(join(cache, name), join(bin, name));
  }
}

/** Lets the package's script download into `bin`, and moves what came to `folder`. */
async function fromNuGet(folder: string, bin: string, script: string, log: (line: string) => void): Promise<void> {
  log(`ONNX Runtime's CUDA 12 provider, from NuGet by onnxruntime-node's install script`);
  // the script says nothing while it downloads
  for (const name of PROVIDER) await rm(join(bin, name), { force: true });
  const said = await run(process.execPath, [script], {
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: "true" },
    timeout: INSTALL_TIMEOUT_MS,
  }).then(
    ({ stdout, stderr }) => `${stdout}\n${stderr}`,
    (error: unknown) => messageOf(error),
  );
  const missing = PROVIDER.filter((name) => !existsSync(join(bin, name)));
  if (missing.length > 0) {
    const why =
      said.split("\n").find((line) => /error|ENOTFOUND|ECONN|EAI_AGAIN|timed? ?out/i.test(line)) ?? "it said nothing";
    throw new Error(
      `onnxruntime-node's install script left no ${missing[0]}; is api.nuget.org reachable? (${why.trim().slice(0, 200)})`,
    );
  }
  const found = cudaOf(join(bin, PROVIDER[1]!));
  for (const name of PROVIDER) {
    await cp(join(bin, name), join(folder, name));
    await rm(join(bin, name));
  }
  if (found !== "12")
    throw new Error(
      `what NuGet has of ${onnxVersion()} is built for ${found === undefined ? "no CUDA that can be read from it" : `CUDA ${found}`}, expected CUDA 12. With a driver of 580 or newer take ` +
        `--actor-cuda 13; with an older one put both files of a CUDA 12 build of ${onnxVersion()} into ${bin} by hand (docs/cuda.md)`,
    );
}

async function fromPyPI(python: string, folder: string, log: (line: string) => void): Promise<void> {
  if (ONNX_CUDA_13.version !== onnxVersion())
    throw new Error(
      `onnxruntime-node is ${onnxVersion()}, the pinned provider ${ONNX_CUDA_13.version}: they must be equal`,
    );
  log(`ONNX Runtime's CUDA 13 provider, from PyPI (${ONNX_CUDA_13.megabytes} MB)`);
  await fetchWheel(python, ONNX_CUDA_13, folder, `onnxruntime/capi/(${PROVIDER.join("|")})`, log);
  for (const name of PROVIDER) await rename(join(folder, "onnxruntime", "capi", name), join(folder, name));
  await rm(join(folder, "onnxruntime"), { recursive: true });
}
