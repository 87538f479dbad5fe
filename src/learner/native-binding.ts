/**
 * Prepares the native TensorFlow binding of `@tensorflow/tfjs-node-gpu` without that package's install script (which
 * downloads a libtensorflow of 2022, built for CUDA 11.2, and fails where its host is not reached):
 *
 *   pip download tensorflow-cpu ─▶ libtensorflow_cc, libtensorflow_framework, C headers ─┐
 *   node_modules/@tensorflow/tfjs-node-gpu/binding/*.cc ─▶ g++ ──────────────────────────┴─▶ tfjs_binding.node
 *
 * Both libraries and the binding are kept in the user's cache (about 640 MB); node_modules gets a symbolic link to it.
 * Knows nothing of TensorFlow.js itself; whether the binding computes correctly is backend.ts's to find out.
 */
import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, existsSync, lstatSync, realpathSync } from "node:fs";
import { mkdir, readdir, rename, rm, stat, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { messageOf } from "../errors.js";
import { cacheRoot } from "../machine/cache.js";

const run = promisify(execFile);

/** The libtensorflow that is used: one PyPI wheel, by version and content. */
const TENSORFLOW_VERSION = "2.21.0";
const WHEEL_SHA256 = "2b847d217b02ee7731ed91431daf3250daa0196c3c94614d23be27232e6e5b6c";
const WHEEL_MB = 274;

/** What is taken from the wheel; everything else in it is Python. */
const LIBRARIES = ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"];
const HEADER_FOLDERS = ["tensorflow/c", "tensorflow/core/platform", "tensorflow/tsl", "tsl", "xla/tsl"];

const BINDING = "tfjs_binding.node";

/** Temporary folders older than this were left by a killed setup. */
const ABANDONED_AFTER_MS = 60 * 60 * 1000;
const PROGRESS_EVERY_MS = 3000;

/** How preparing the binding ended. `reason` is one clause that says what was missing and, where known, what to install. */
export type NativeBinding = { ok: true; path: string; built: boolean } | { ok: false; reason: string };

/** Absolute path at which tfjs-node-gpu looks for its binding, whether or not the file is there. */
export function nativeBindingPath(): string {
  return join(packageFolder(), "lib", "napi-v8", BINDING);
}

/**
 * Makes sure that the native binding is in place: does nothing when it is, links it from the cache when that has it, else
 * downloads libtensorflow (274 MB) and compiles. Safe to run twice at the same time. Never throws for what a machine may
 * lack (network, pip, g++, headers): that is the `reason`, and the wasm backend is there for it.
 *
 * @param log receives whole lines of progress; nothing is logged when nothing has to be built
 * @param path where the binding belongs (tests put it elsewhere)
 * @param cache folder that keeps libraries and binding; by default under $XDG_CACHE_HOME, else ~/.cache
 */
export async function prepareNativeBinding({
  log,
  path = nativeBindingPath(),
  cache = cacheFolder(),
}: {
  log: (line: string) => void;
  path?: string;
  cache?: string;
}): Promise<NativeBinding> {
  try {
    if (isInPlace(path, cache)) return { ok: true, path, built: false };
    const cached = join(cache, BINDING);
    const built = !existsSync(cached);
    if (built) await buildInto(cache, log);
    await link(cached, path);
    return { ok: true, path, built };
  } catch (error) {
    return { ok: false, reason: messageOf(error) };
  }
}

function packageFolder(): string {
  return dirname(createRequire(import.meta.url).resolve("@tensorflow/tfjs-node-gpu/package.json"));
}

function cacheFolder(): string {
  return join(cacheRoot(), `libtensorflow-${TENSORFLOW_VERSION}`);
}

/**
 * True for a link into a cache of this version, wherever that cache is, and for a file that is no link: somebody's own
 * build is theirs to keep.
 */
function isInPlace(path: string, cache: string): boolean {
  if (!existsSync(path)) return false; // also for a link whose cache was cleared
  return !lstatSync(path).isSymbolicLink() || basename(dirname(realpathSync(path))) === basename(cache);
}

/** Replaces `path` by a link in one step, so that a process starting meanwhile finds the old or the new one. */
async function link(target: string, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}`;
  await rm(temporary, { force: true });
  await symlink(target, temporary);
  await rename(temporary, path);
}

/** Fills `cache` by way of a temporary folder beside it; whoever renames first wins, the other uses the winner's. */
async function buildInto(cache: string, log: (line: string) => void): Promise<void> {
  const tools = await findTools();
  await mkdir(dirname(cache), { recursive: true });
  await removeAbandoned(dirname(cache));
  const folder = `${cache}.tmp-${process.pid}`;
  await mkdir(folder);
  try {
    log(`preparing TensorFlow ${TENSORFLOW_VERSION}, once: ${WHEEL_MB} MB to download, kept in ${dirname(cache)}`);
    const wheel = await download(tools.python, folder, log);
    await unpack(tools.python, wheel, folder);
    await rm(dirname(wheel), { recursive: true });
    log("compiling the binding");
    await compile(tools, folder);
    await rm(join(folder, "tensorflow"), { recursive: true });
    await rename(folder, cache).catch((error: unknown) => {
      if (!existsSync(join(cache, BINDING))) throw error;
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

interface Tools {
  python: string;
  compiler: string;
  /** Folder with node_api.h. */
  nodeHeaders: string;
}

/** Everything the build needs is looked for before anything is downloaded. */
async function findTools(): Promise<Tools> {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(`it is prepared on Linux x64 only, this is ${process.platform} ${process.arch}`);
  }
  const missing: string[] = [];
  const python = await firstThatRuns(["python3", "python"], ["-m", "pip", "--version"]);
  if (python === undefined) missing.push("python3 with pip (Debian: apt install python3-pip)");
  const compiler = await firstThatRuns([process.env["CXX"] || "g++", "clang++"], ["--version"]);
  if (compiler === undefined) missing.push("g++ (Debian: apt install g++)");
  const headers = [
    join(dirname(dirname(process.execPath)), "include", "node"),
    "/usr/include/node",
    "/usr/local/include/node",
  ];
  const nodeHeaders = headers.find((folder) => existsSync(join(folder, "node_api.h")));
  if (nodeHeaders === undefined)
    missing.push("node_api.h (Debian: apt install libnode-dev; nodejs.org's own archives have it)");
  if (python === undefined || compiler === undefined || nodeHeaders === undefined)
    throw new Error(`missing: ${missing.join(", ")}`);
  return { python, compiler, nodeHeaders };
}

async function firstThatRuns(commands: string[], args: string[]): Promise<string | undefined> {
  for (const command of commands) {
    const runs = await run(command, args).then(
      () => true,
      () => false,
    );
    if (runs) return command;
  }
  return undefined;
}

/** Downloads the wheel into `folder`/wheel and checks its content. The result does not depend on the local Python's version. */
async function download(python: string, folder: string, log: (line: string) => void): Promise<string> {
  const destination = join(folder, "wheel");
  await mkdir(destination);
  const platforms = ["manylinux_2_27_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64"].flatMap((tag) => [
    "--platform",
    tag,
  ]);
  const args = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11", ...platforms];
  args.push(
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--dest",
    destination,
    `tensorflow-cpu==${TENSORFLOW_VERSION}`,
  );
  // pip's temporary files go where their growth can be seen (and where 274 MB fit: /tmp is small on some clusters).
  const env = { ...process.env, TMPDIR: destination, PIP_REQUIRE_VIRTUALENV: "false" };

  const onTerminal = process.stderr.isTTY;
  const child = spawn(python, args, { env, stdio: ["ignore", onTerminal ? process.stderr : "ignore", "pipe"] });
  let errors = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (errors += text));
  const report = () =>
    void bytesUnder(destination).then((bytes) =>
      log(`downloading TensorFlow: ${Math.round(bytes / 1e6)} of ${WHEEL_MB} MB`),
    );
  const timer = onTerminal ? undefined : setInterval(report, PROGRESS_EVERY_MS);
  const code = await new Promise((resolve, reject) => child.on("error", reject).on("close", resolve)).finally(() =>
    clearInterval(timer),
  );
  if (code !== 0) {
    const why = errors.split("\n").findLast((line) => line.startsWith("ERROR")) ?? `pip ended with ${String(code)}`;
    throw new Error(
      `tensorflow-cpu ${TENSORFLOW_VERSION} could not be downloaded with pip; is its package index reachable? (${why.replace(/^ERROR: /, "").slice(0, 200)})`,
    );
  }

  const name = (await readdir(destination)).find((file) => file.endsWith(".whl"));
  if (name === undefined) throw new Error("pip reported success and left no wheel");
  const hash = createHash("sha256");
  await pipeline(createReadStream(join(destination, name)), hash);
  const found = hash.digest("hex");
  if (found !== WHEEL_SHA256)
    throw new Error(`${name} has sha256 ${found}, expected ${WHEEL_SHA256}: not the published file, not used`);
  return join(destination, name);
}

/** Bytes of all files under a folder that may be changing. */
async function bytesUnder(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  const files = entries.filter((entry) => entry.isFile());
  const sizes = await Promise.all(
    files.map((file) =>
      stat(join(file.parentPath, file.name)).then(
        (s) => s.size,
        () => 0,
      ),
    ),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** Takes libraries and headers out of the wheel (a zip file) and leaves the 800 MB of Python alone. */
async function unpack(python: string, wheel: string, folder: string): Promise<void> {
  const wanted = [
    ...LIBRARIES.map((name) => `tensorflow/${name}`),
    ...HEADER_FOLDERS.map((name) => `tensorflow/include/${name}/`),
  ];
  const script =
    "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); z.extractall(sys.argv[2], [n for n in z.namelist() if n.startswith(tuple(sys.argv[3:]))])";
  await run(python, ["-c", script, wheel, folder, ...wanted]);
  for (const name of LIBRARIES) {
    await rename(join(folder, "tensorflow", name), join(folder, name));
    await run("strip", ["--strip-unneeded", join(folder, name)]).catch(() => undefined); // smaller where binutils is there, the same otherwise
  }
}

/** Compiles the binding's unchanged sources, and loads the result once in a process of its own. */
async function compile({ compiler, nodeHeaders }: Tools, folder: string): Promise<void> {
  const sources = ["tfjs_backend.cc", "tfjs_binding.cc"].map((name) => join(packageFolder(), "binding", name));
  const include = [nodeHeaders, join(folder, "tensorflow", "include"), packageFolder()].map((path) => `-I${path}`);
  const libraries = [`-L${folder}`, ...LIBRARIES.map((name) => `-l:${name}`), "-Wl,-rpath,$ORIGIN"];
  const output = join(folder, BINDING);
  try {
    await run(compiler, [
      "-std=c++17",
      "-O2",
      "-fPIC",
      "-shared",
      "-DNAPI_VERSION=8",
      ...include,
      ...sources,
      ...libraries,
      "-o",
      output,
    ]);
    await run(process.execPath, ["-e", "require(process.argv[1])", output], {
      env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: "2" },
    });
  } catch (error) {
    const why =
      messageOf(error)
        .split("\n")
        .find((line) => /error/i.test(line)) ?? messageOf(error);
    throw new Error(`the binding did not build with ${compiler} (${why.slice(0, 200)})`, { cause: error });
  }
}

async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.includes(".tmp-")) continue;
    const path = join(folder, name);
    const info = await stat(path).catch(() => undefined);
    if (info && Date.now() - info.mtimeMs > ABANDONED_AFTER_MS) await rm(path, { recursive: true, force: true });
  }
}
