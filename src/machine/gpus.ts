/** What NVIDIA's driver says of this machine, as text and as names. */
import { execFileSync } from "node:child_process";

/** A driver in trouble can hang. */
const SMI_TIMEOUT_MS = 10_000;

export const smiList = (): string | null => smi(["-L"]);

/** Output of nvidia-smi with `args`; null where there is no such program, or it fails. */
export function smi(args: readonly string[]): string | null {
  try {
    return execFileSync("nvidia-smi", args, {
      encoding: "utf8",
      timeout: SMI_TIMEOUT_MS,
      stdio: ["ignore", "pipe", "ignore"],
    });
  } catch {
    return null;
  }
}

/** Memory of the smallest GPU in bytes; null where none is listed. */
export function gpuBytes(): number | null {
  const mebibytes = (smi(["--query-gpu=memory.total", "--format=csv,noheader,nounits"]) ?? "")
    .split("\n")
    .flatMap((line) => (/^\d+$/.test(line.trim()) ? [Number(line)] : []));
  return mebibytes.length === 0 ? null : Math.min(...mebibytes) * 2 ** 20;
}
