/**
 * The float32 GGUF file that llama.cpp wants of a model folder; written once, kept in the user's
 * cache.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { benchCache, run } from "./python.js";
import { benchFile } from "./side.js";

export async function float32Gguf(python: string, folder: string, progress: (line: string) => void): Promise<string> {
  const weights = join(folder, "model.safetensors");
  const { size, mtimeMs } = statSync(weights);
  const key = createHash("sha256").update(`${weights} ${size} ${mtimeMs}`).digest("hex").slice(0, 12);
  const file = join(benchCache(), `bench-${key}-f32.gguf`);
  if (existsSync(file)) return file;
  progress(`writing ${file}`);
  mkdirSync(dirname(file), { recursive: true });
  await run(python, [benchFile("peers/gguf_f32.py"), folder, `${file}.tmp`]);
  renameSync(`${file}.tmp`, file);
  return file;
}
