/** The peers' Python: the one given, or a venv made once from peers/requirements.txt in the user's cache. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { messageOf } from "../src/errors.js";
import { benchFile } from "./side.js";

const run = promisify(execFile);

export interface Peers {
  /** null: no peer can be measured, `why` says the reason. */
  readonly python: string | null;
  readonly why: string;
  /** Versions as Python reports them. */
  readonly versions: Readonly<Record<string, string>>;
}

/** @param given an interpreter with everything of peers/requirements.txt; undefined = the venv */
export async function findPeers(given: string | undefined, progress: (line: string) => void): Promise<Peers> {
  try {
    const python = given ?? (await venv(progress));
    const names = readFileSync(benchFile("peers/requirements.txt"), "utf8").match(/^[\w-]+(?===)/gm)!;
    const code = `import importlib.metadata as m, json, platform
print(json.dumps({"python": platform.python_version(), **{n: m.version(n) for n in ${JSON.stringify(names)}}}))`;
    const { stdout } = await run(python, ["-c", code]);
    return { python, why: "", versions: JSON.parse(stdout) as Record<string, string> };
  } catch (error) {
    const why = messageOf(error).trim().split("\n").slice(-3).join(" ");
    return { python: null, why, versions: {} };
  }
}

/** One venv for each content of requirements.txt; made under a temporary name, so that a half-made one is never used. */
async function venv(progress: (line: string) => void): Promise<string> {
  const requirements = benchFile("peers/requirements.txt");
  const key = createHash("sha256").update(readFileSync(requirements)).digest("hex").slice(0, 12);
  const cache = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const folder = join(cache, "finellama-rl", `bench-peers-${key}`);
  const marker = join(folder, "complete");
  if (!existsSync(marker)) {
    progress("making a venv with torch, transformers and TRL (1.5 GB with CPU builds, once)");
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(dirname(folder), { recursive: true });
    await run("python3", ["-m", "venv", folder]);
    const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements];
    await run(join(folder, "bin/python"), pip, { maxBuffer: 2 ** 26 });
    mkdirSync(`${folder}/complete.tmp`);
    renameSync(`${folder}/complete.tmp`, marker);
  }
  return join(folder, "bin/python");
}
