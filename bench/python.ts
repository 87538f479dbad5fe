/**
 * The peers' Python: the one given, or a venv made once from peers/requirements.txt in the user's
 * cache.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { messageOf } from "../src/errors.js";
import { benchFile } from "./side.js";

export const run = promisify(execFile);

/** Where what is made once is kept. */
export const benchCache = (): string =>
  join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "finellama-rl");

export interface Peers {
  /** null: no peer can be measured, `why` says the reason. */
  readonly python: string | null;
  /** Whether llama.cpp is among them. */
  readonly llama: boolean;
  /** What is missing and why; "" when nothing is. */
  readonly why: string;
  /** Versions as Python reports them. */
  readonly versions: Readonly<Record<string, string | null>>;
}

const REQUIREMENTS = "peers/requirements.txt";
const LLAMA_REQUIREMENTS = "peers/requirements-llama.txt";

/** @param given an interpreter with everything of peers/requirements*.txt; undefined = the venv */
export async function findPeers(given: string | undefined, progress: (line: string) => void): Promise<Peers> {
  try {
    const python = given ?? (await venv(progress));
    const versions = await versionsOf(python, [...namesIn(REQUIREMENTS), ...namesIn(LLAMA_REQUIREMENTS)]);
    const missing = namesIn(REQUIREMENTS).filter((name) => versions[name] === null);
    if (missing.length > 0)
      return { python: null, llama: false, why: `${python} lacks ${missing.join(", ")}`, versions };
    const missingLlama = namesIn(LLAMA_REQUIREMENTS).filter((name) => versions[name] === null);
    const why = missingLlama.length > 0 ? `llama.cpp: ${python} lacks ${missingLlama.join(", ")}` : "";
    return { python, llama: why === "", why, versions };
  } catch (error) {
    return { python: null, llama: false, why: lastLines(error), versions: {} };
  }
}

const namesIn = (file: string): string[] => readFileSync(benchFile(file), "utf8").match(/^[\w-]+(?===)/gm)!;

const lastLines = (error: unknown): string => messageOf(error).trim().split("\n").slice(-3).join(" ");

async function versionsOf(python: string, names: readonly string[]): Promise<Record<string, string | null>> {
  const code = `import importlib.metadata as m, json, platform
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
print(json.dumps({"python": platform.python_version(), **{n: version(n) for n in ${JSON.stringify(names)}}}))`;
  const { stdout } = await run(python, ["-c", code]);
  return JSON.parse(stdout) as Record<string, string | null>;
}

/**
 * One venv for each content of the requirements; made under a temporary name, so that a half-made
 * one is never used.
 */
async function venv(progress: (line: string) => void): Promise<string> {
  const [requirements, llama] = [benchFile(REQUIREMENTS), benchFile(LLAMA_REQUIREMENTS)];
  const hash = createHash("sha256").update(readFileSync(requirements)).update(readFileSync(llama));
  const folder = join(benchCache(), `bench-peers-${hash.digest("hex").slice(0, 12)}`);
  const marker = join(folder, "complete");
  const python = join(folder, "bin/python");
  if (!existsSync(marker)) {
    progress("making a venv with torch, transformers, TRL and llama.cpp (1.5 GB with CPU builds, once)");
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(dirname(folder), { recursive: true });
    await run("python3", ["-m", "venv", folder]);
    const pip = (file: string) =>
      run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", file], {
        maxBuffer: 2 ** 26,
      });
    await pip(requirements);
    await pip(llama).catch((error: unknown) => progress(`llama.cpp could not be built: ${lastLines(error)}`));
    mkdirSync(`${folder}/complete.tmp`);
    renameSync(`${folder}/complete.tmp`, marker);
  }
  return python;
}
