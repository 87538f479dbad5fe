/** Where what `setup` prepares is kept. Knows nothing of what that is. */
import { homedir } from "node:os";
import { join } from "node:path";

/** The user's cache folder of this program: under $XDG_CACHE_HOME, else ~/.cache. */
export function cacheRoot(): string {
  return join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "finellama-rl");
}
