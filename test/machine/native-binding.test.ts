import { existsSync } from "node:fs";
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { prepareNativeBinding } from "../../src/machine/native-binding.js";

let folder: string;
let path: string;
let cache: string;
let lines: string[];
const prepare = () => prepareNativeBinding((line) => lines.push(line), "cpu", path, cache);

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "native-binding-"));
  path = join(folder, "package", "lib", "napi-v8", "tfjs_binding.node");
  cache = join(folder, "cache", "libtensorflow-1.2.3");
  lines = [];
  await mkdir(join(folder, "bin"));
  vi.stubEnv("PATH", join(folder, "bin"));
  vi.stubEnv("CXX", "");
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

/** A command that answers the questions of the tool search, and else runs `script`. */
async function fakeTool(name: string, script: string): Promise<void> {
  const text = `#!/bin/sh\ncase "$*" in *--version*) exit 0;; esac\n${script}\n`;
  await writeFile(join(folder, "bin", name), text, { mode: 0o755 });
}

async function fillCache(of = cache): Promise<string> {
  await mkdir(of, { recursive: true });
  await writeFile(join(of, "tfjs_binding.node"), "binary");
  return join(of, "tfjs_binding.node");
}

test("a binding in the cache is linked without building, and only once", async () => {
  const cached = await fillCache();
  expect(await prepare()).toEqual({ ok: true, path, built: false });
  expect(await readlink(path)).toBe(cached);
  const first = await lstat(path);
  expect(await prepare()).toEqual({ ok: true, path, built: false });
  expect((await lstat(path)).ino).toBe(first.ino);
  expect(lines).toEqual([]);
});

test("a link into another version's cache is replaced, one into the same version's cache elsewhere is kept", async () => {
  const cached = await fillCache();
  const older = await fillCache(join(folder, "cache", "libtensorflow-1.0.0"));
  const elsewhere = await fillCache(join(folder, "other-home", "libtensorflow-1.2.3"));
  await mkdir(join(path, ".."), { recursive: true });
  await symlink(older, path);
  await prepare();
  expect(await readlink(path)).toBe(cached);
  await rm(path);
  await symlink(elsewhere, path);
  await prepare();
  expect(await readlink(path)).toBe(elsewhere);
});

test("a CUDA build serves where the CPU's is wanted, and not the other way round", async () => {
  await fillCache();
  const cuda = `${cache}-cuda`;
  await fillCache(cuda);
  const prepareCuda = () => prepareNativeBinding((line) => lines.push(line), "cuda", path, cuda);
  await prepare();
  await prepareCuda();
  expect(await readlink(path)).toBe(join(cuda, "tfjs_binding.node"));
  await prepare();
  expect(await readlink(path)).toBe(join(cuda, "tfjs_binding.node"));
});

test("a link whose cache was cleared is mended", async () => {
  await mkdir(join(path, ".."), { recursive: true });
  await symlink(join(folder, "gone"), path);
  const cached = await fillCache();
  expect(await prepare()).toMatchObject({ ok: true });
  expect(await readlink(path)).toBe(cached);
});

test("a binding that somebody built in place is left alone", async () => {
  await fillCache();
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, "own build");
  expect(await prepare()).toEqual({ ok: true, path, built: false });
  expect(await readFile(path, "utf8")).toBe("own build");
});

const onLinux = test.skipIf(process.platform !== "linux" || process.arch !== "x64"); // elsewhere the reason is the platform

onLinux("without pip and compiler the reason names both, and nothing is downloaded or left behind", async () => {
  const binding = await prepare();
  expect(binding).toMatchObject({ ok: false });
  expect(binding).toHaveProperty("reason", expect.stringMatching(/missing: .*pip.*g\+\+/));
  expect(lines).toEqual([]);
  expect(existsSync(cache)).toBe(false);
});

onLinux("a failed download gives pip's own reason and leaves no temporary folder", async () => {
  await fakeTool("g++", "exit 1");
  await fakeTool("python3", 'echo "WARNING: Retrying" >&2; echo "ERROR: No matching distribution found" >&2; exit 1');
  const binding = await prepare();
  expect(binding).toHaveProperty("reason", expect.stringContaining("No matching distribution found"));
  expect(await readdir(join(folder, "cache"))).toEqual([]);
  expect(existsSync(path)).toBe(false);
});

onLinux("a wheel with other content than the pinned one is refused", async () => {
  await fakeTool("g++", "exit 1");
  await fakeTool(
    "python3",
    'while [ "$1" != "--dest" ]; do shift; done; echo tampered > "$2/tensorflow_cpu-2.21.0.whl"',
  );
  expect(await prepare()).toHaveProperty("reason", expect.stringMatching(/has sha256 \w{64}, expected \w{64}/));
  expect(await readdir(join(folder, "cache"))).toEqual([]);
});
