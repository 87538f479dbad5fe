import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { setup } from "../../src/machine/prepare.js";
import { cudaWheels, prepareCudaLibraries } from "../../src/machine/cuda-libraries.js";
import { ONNX_CUDA_13, onnxVersion, prepareOnnxProvider, providerInPlace } from "../../src/machine/onnx-provider.js";
import { neededLibraries } from "../../src/machine/elf.js";
import type { Wheel } from "../../src/machine/wheels.js";
import { linkedTo } from "../support/elf.js";

let folder = "";
let lines: string[] = [];
const log = (line: string) => void lines.push(line);
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "cuda-setup-"));
  lines = [];
  return () => {
    vi.unstubAllEnvs();
    rmSync(folder, { recursive: true });
  };
});

const hasPython = spawnSync("python3", ["--version"]).status === 0;
describe.skipIf(!hasPython)("CUDA's libraries (skipped without python3)", () => {
  /** A wheel with `names` in the stand-in's index. */
  function makeWheel(name: string, names: readonly string[]): Wheel {
    const file = join(folder, "index", `${name.replaceAll("-", "_")}-1.2-py3-none-manylinux2014_x86_64.whl`);
    mkdirSync(join(folder, "index"), { recursive: true });
    const script = `import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
    for n in sys.argv[2:]: z.writestr(n, "library")`;
    expect(spawnSync("python3", ["-c", script, file, ...names]).status).toBe(0);
    const sha256 = createHash("sha256").update(readFileSync(file)).digest("hex");
    return { name, version: "1.2", sha256, megabytes: 1 };
  }
  const prepare = (wheels: Wheel[]) =>
    prepareCudaLibraries(join(folder, "python"), "12", log, { root: join(folder, "cache"), wheels });
  beforeEach(() => {
    // a Python whose pip copies from a folder: pip itself takes seconds
    const text = `#!/bin/bash
[ "$2" = pip ] || exec python3 "$@"
while [ "$1" != --dest ]; do shift; done
name=\${3%%==*}
cp "${folder}/index/\${name//-/_}"-*.whl "$2" || { echo "ERROR: No matching distribution found for $3" >&2; exit 1; }
`;
    writeFileSync(join(folder, "python"), text, { mode: 0o755 });
  });

  test("come out of the wheels, a folder for each, without what nobody opens; a second time nothing is fetched", async () => {
    const wheels = [
      makeWheel("nvidia-one-cu12", [
        "nvidia/one/lib/libone.so.12",
        "nvidia/one/include/one.h",
        "nvidia/one/lib/libone.a",
      ]),
      makeWheel("nvidia-two-cu12", [
        "nvidia/two/lib/libtwo.so.9",
        "nvidia/two/lib/libnvblas.so.12",
        "nvidia/__init__.py",
      ]),
    ];
    await prepare(wheels);
    expect(readdirSync(join(folder, "cache/cuda-12/nvidia-one-cu12-1.2"))).toEqual(["libone.so.12"]);
    expect(readdirSync(join(folder, "cache/cuda-12/nvidia-two-cu12-1.2"))).toEqual(["libtwo.so.9"]);
    expect(readdirSync(join(folder, "cache/cuda-12")).length).toBe(2);
    rmSync(join(folder, "index"), { recursive: true });
    lines = [];
    await prepare(wheels);
    expect(lines).toEqual([]);
  });

  test("a wheel that is missing stops it by name; those before it are kept, and no temporary folder", async () => {
    const one = makeWheel("nvidia-one-cu12", ["nvidia/one/lib/libone.so.12"]);
    const gone: Wheel = { ...one, name: "nvidia-gone-cu12" };
    await expect(prepare([one, gone])).rejects.toThrow(/nvidia-gone-cu12 1.2 could not be downloaded with pip/);
    expect(readdirSync(join(folder, "cache/cuda-12"))).toEqual(["nvidia-one-cu12-1.2"]);
  });

  test("another content than the pinned one is refused", async () => {
    const one = makeWheel("nvidia-one-cu12", ["nvidia/one/lib/libone.so.12"]);
    await expect(prepare([{ ...one, sha256: "0".repeat(64) }])).rejects.toThrow(/has sha256 \w+, expected 0+/);
    expect(readdirSync(join(folder, "cache/cuda-12"))).toEqual([]);
  });
});

describe("ONNX Runtime's CUDA provider", () => {
  const names = ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"];
  const bin = () => join(folder, "bin");
  /** Runs the installer that `body` is, with its own folder as BIN. */
  function prepare(body: string) {
    mkdirSync(bin(), { recursive: true });
    const script = join(folder, "install.cjs");
    writeFileSync(script, `const fs = require("fs"); const BIN = ${JSON.stringify(bin())}; ${body}`);
    return prepareOnnxProvider("python3", "12", log, {
      bin: bin(),
      cache: join(folder, "onnxruntime-1-cuda12"),
      script,
    });
  }
  const writes = (major: string) => `if (process.env.ONNXRUNTIME_NODE_INSTALL !== "true") process.exit(0);
    const provider = Buffer.from("${linkedTo(["libcublasLt.so." + major, "libcublas.so." + major, "libcudart.so." + major]).toString("base64")}", "base64");
    for (const name of ${JSON.stringify(names)}) fs.writeFileSync(BIN + "/" + name, provider);`;

  test("comes by the package's own script, is kept in the cache, and is linked from there after node_modules was made anew", async () => {
    await prepare(writes("12"));
    expect(providerInPlace(bin())).toBe("12");
    rmSync(bin(), { recursive: true });
    await prepare("throw new Error('asked again')");
    for (const name of names) expect(neededLibraries(join(bin(), name))).toContain("libcudart.so.12");
  });

  test("that is built for another CUDA than was asked for is refused for what its file says", async () => {
    await expect(prepare(writes("13"))).rejects.toThrow(
      /built for CUDA 13, expected CUDA 12.*--actor-cuda 13.*by hand/,
    );
    expect(existsSync(join(folder, "onnxruntime-1-cuda12"))).toBe(false);
    expect(providerInPlace(bin())).toBeUndefined();
  });

  test.each([
    ["12", ["libcublas.so.12", "libcudart.so.12", "libc.so.6"]],
    ["13", ["libm.so.6", "libcudart.so.13"]],
    [undefined, ["libcudart.so.11.0"]],
    [undefined, []],
  ])("in place is for CUDA %s, by what its file is linked to: %j", (major, libraries) => {
    mkdirSync(bin());
    for (const name of names) writeFileSync(join(bin(), name), linkedTo(libraries));
    expect(providerInPlace(bin())).toBe(major);
    expect(neededLibraries(join(bin(), names[1]!))).toEqual(libraries);
  });

  test.each(["", "provider", linkedTo(["libcudart.so.12"]).subarray(0, 130)])(
    "that is no library is none: %#",
    (bytes) => {
      mkdirSync(bin());
      for (const name of names) writeFileSync(join(bin(), name), bytes);
      expect(providerInPlace(bin())).toBeUndefined();
    },
  );

  test("a script that ends well having done nothing is a failure", async () => {
    await expect(prepare("")).rejects.toThrow(
      /left no libonnxruntime_providers_shared.so; is api.nuget.org reachable\?/,
    );
    expect(existsSync(join(folder, "onnxruntime-1-cuda12"))).toBe(false);
    expect(readdirSync(folder).filter((name) => name.includes(".tmp-"))).toEqual([]);
  });

  test("a script that cannot download gives its reason", async () => {
    await expect(prepare("throw new Error('getaddrinfo ENOTFOUND api.nuget.org')")).rejects.toThrow(
      /ENOTFOUND api.nuget.org/,
    );
  });

  test("from PyPI is of the version of the package it goes into", () => {
    expect(ONNX_CUDA_13.version).toBe(onnxVersion());
  });
});

test("--dry-run lists every file with its version, size and place, and downloads nothing", async () => {
  vi.stubEnv("XDG_CACHE_HOME", folder);
  const print = vi.spyOn(console, "log").mockImplementation(() => {});
  try {
    await setup({ cuda: true, actorCuda: "12", dryRun: true });
    const listed = String(print.mock.calls[0]![0]).split("\n");
    expect(listed[0]).toMatch(/^PyPI +tensorflow==2\.21\.0 +572 MB .*libtensorflow-2\.21\.0-cuda$/);
    expect(listed[1]).toMatch(/^NuGet +Microsoft\.ML\.OnnxRuntime\.Gpu\.Linux 1\.30\.0/);
    expect(listed.slice(2).length).toBe(cudaWheels("12").length);
    for (const { name, version } of cudaWheels("12")) expect(listed.join("\n")).toContain(`${name}==${version}`);
  } finally {
    print.mockRestore();
  }
  expect(readdirSync(folder)).toEqual([]);
});
