/**
 * Prepares `@tensorflow/tfjs-node-gpu`'s binding without its script, which brings a library of
 * 2022:
 *   pip download tensorflow-cpu or tensorflow ─▶ libtensorflow_*.so, C headers ─┐
 *   @tensorflow/tfjs-node-gpu/binding/*.cc ─▶ g++ ──────────────────────────────┴─▶ the binding
 * The cache keeps both builds (640 MB; CUDA 1.0 GB). The CUDA build also computes on a CPU alone.
 */
import { execFile } from "node:child_process";
import { existsSync, lstatSync, realpathSync } from "node:fs";
import { mkdir, rename, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { messageOf } from "../errors.js";
import { cacheRoot, fetchWheel, findPip, firstThatRuns, fillBeside, wheel, type Wheel } from "./wheels.js";

const run = promisify(execFile);

export type TensorFlowBuild = "cpu" | "cuda";

/** The libtensorflow that is used: one PyPI wheel for each build, by version and content. */
const VERSION = "2.21.0";
export const TENSORFLOW_WHEELS: Record<TensorFlowBuild, Wheel> = {
  cpu: wheel("tensorflow-cpu", VERSION, 274, "2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c"),
  cuda: wheel("tensorflow", VERSION, 572, "9056fbc9ba04235810b71ae6cbd958a196e8804fb53bbcffbf3e23b56155f124"),
};

/** What is taken from the wheel; everything else in it is Python. */
const LIBRARIES = ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"];
const HEADER_FOLDERS = ["tensorflow/c", "tensorflow/core/platform", "tensorflow/tsl", "tsl", "xla/tsl"];

const BINDING = "tfjs_binding.node";

/** `reason` is one clause that says what was missing and, where known, what to install. */
export type NativeBinding = { ok: true; path: string; built: boolean } | { ok: false; reason: string };

/** Absolute path at which tfjs-node-gpu looks for its binding, whether or not the file is there. */
export const nativeBindingPath = (): string => join(packageFolder(), "lib", "napi-v8", BINDING);

/**
 * Links the binding from the cache, else builds it. Safe to run twice at once. What a machine lacks
 * is the `reason`, not thrown: wasm serves then.
 */
export async function prepareNativeBinding(
  log: (line: string) => void,
  build: TensorFlowBuild = "cpu",
  path = nativeBindingPath(),
  cache = tensorFlowFolder(build),
): Promise<NativeBinding> {
  try {
    if (isInPlace(path, cache, build)) return { ok: true, path, built: false };
    const cached = join(cache, BINDING);
    const built = !existsSync(cached);
    if (built) await buildInto(cache, TENSORFLOW_WHEELS[build], log);
    await link(cached, path);
    return { ok: true, path, built };
  } catch (error) {
    return { ok: false, reason: messageOf(error) };
  }
}

const packageFolder = (): string =>
  dirname(createRequire(import.meta.url).resolve("@tensorflow/tfjs-node-gpu/package.json"));

/** Folder of a build's libraries and binding, whether or not it is there. */
export const tensorFlowFolder = (build: TensorFlowBuild): string =>
  join(cacheRoot(), `libtensorflow-${VERSION}${build === "cuda" ? CUDA_SUFFIX : ""}`);

const CUDA_SUFFIX = "-cuda";

/** The user's own build, or a link to this version's; a CUDA build serves as a CPU build too. */
function isInPlace(path: string, cache: string, build: TensorFlowBuild): boolean {
  if (!existsSync(path)) return false; // also for a link whose cache was cleared
  if (!lstatSync(path).isSymbolicLink()) return true;
  const linked = basename(dirname(realpathSync(path)));
  return linked === basename(cache) || (build === "cpu" && linked === `${basename(cache)}${CUDA_SUFFIX}`);
}

/** Replaces `path` by a link in one step: other processes find the old one or the new one. */
async function link(target: string, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}`;
  await rm(temporary, { force: true });
  await symlink(target, temporary);
  await rename(temporary, path);
}

async function buildInto(cache: string, wheel: Wheel, log: (line: string) => void): Promise<void> {
  const tools = await findTools();
  const fill = async (folder: string): Promise<void> => {
    log(`preparing TensorFlow ${wheel.version}, once: ${wheel.megabytes} MB to download, kept in ${dirname(cache)}`);
    await unpack(tools.python, wheel, folder, log);
    log("compiling the binding");
    await compile(tools, folder);
    await rm(join(folder, "tensorflow"), { recursive: true });
  };
  await fillBeside(cache, fill, join(cache, BINDING));
}

type Tools = Awaited<ReturnType<typeof findTools>>;

/** Finds everything the build needs before anything is downloaded. */
async function findTools() {
  if (process.platform !== "linux" || process.arch !== "x64")
    throw new Error(`it is prepared on Linux x64 only, this is ${process.platform} ${process.arch}`);
  const missing: string[] = [];
  const python = await findPip();
  if (python === undefined) missing.push("python3 with pip (Debian: apt install python3-pip)");
  const compiler = await firstThatRuns([process.env["CXX"] || "g++", "clang++"], ["--version"]);
  if (compiler === undefined) missing.push("g++ (Debian: apt install g++)");
  const prefixes = [dirname(dirname(process.execPath)), "/usr", "/usr/local"];
  const headers = prefixes.map((prefix) => join(prefix, "include", "node"));
  const nodeHeaders = headers.find((folder) => existsSync(join(folder, "node_api.h")));
  if (nodeHeaders === undefined)
    missing.push("node_api.h (Debian: apt install libnode-dev; nodejs.org's own archives have it)");
  if (python === undefined || compiler === undefined || nodeHeaders === undefined)
    throw new Error(`missing: ${missing.join(", ")}`);
  return { python, compiler, nodeHeaders };
}

async function unpack(python: string, wheel: Wheel, folder: string, log: (line: string) => void): Promise<void> {
  const wanted = [
    ...LIBRARIES.map((name) => `tensorflow/${name}`),
    ...HEADER_FOLDERS.map((name) => `tensorflow/include/${name}/`),
  ];
  await fetchWheel(python, wheel, folder, `(${wanted.join("|")})`, log);
  for (const name of LIBRARIES) {
    await rename(join(folder, "tensorflow", name), join(folder, name));
    await run("strip", ["--strip-unneeded", join(folder, name)]).catch(() => undefined); // smaller where binutils is there, the same otherwise
  }
}

/** Compiles the binding's unchanged sources, and loads the result once in another process. */
async function compile({ compiler, nodeHeaders }: Tools, folder: string): Promise<void> {
  const sources = ["tfjs_backend.cc", "tfjs_binding.cc"].map((name) => join(packageFolder(), "binding", name));
  const include = [nodeHeaders, join(folder, "tensorflow", "include"), packageFolder()].map((path) => `-I${path}`);
  const libraries = [`-L${folder}`, ...LIBRARIES.map((name) => `-l:${name}`), "-Wl,-rpath,$ORIGIN"];
  const output = join(folder, BINDING);
  try {
    const options = ["-std=c++17", "-O2", "-fPIC", "-shared", "-DNAPI_VERSION=8", ...include];
    await run(compiler, [...options, ...sources, ...libraries, "-o", output]);
    await run(process.execPath, ["-e", "require(process.argv[1])", output], {
      env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: "2" },
    });
  } catch (error) {
    const said = messageOf(error).split("\n");
    const why = said.find((line) => /error/i.test(line)) ?? messageOf(error);
    throw new Error(`the binding did not build with ${compiler} (${why.slice(0, 200)})`, { cause: error });
  }
}
