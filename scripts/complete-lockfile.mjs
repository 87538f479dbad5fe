/**
 * Adds the entries of other platforms' optional packages to package-lock.json.
 *
 * npm leaves an optional package out of the lockfile when the registry at hand does not carry it:
 * mirrors often hold only their own platform's. `npm ci` then refuses that lockfile everywhere. Run
 * after every change of dependencies: node scripts/complete-lockfile.mjs
 */
import { readFileSync, writeFileSync } from "node:fs";

const file = new URL("../package-lock.json", import.meta.url);
const lock = JSON.parse(readFileSync(file, "utf8"));

const SYSTEMS = ["darwin", "linux", "win32", "freebsd", "android", "openharmony", "openbsd", "netbsd", "sunos", "aix"];
const PROCESSORS = ["x64", "arm64", "arm", "ia32", "ppc64", "riscv64", "s390x", "loong64", "mips64el", "wasm32"];

/** os, cpu and libc as a package's name tells them ("binding-linux-x64-musl"). */
function platform(name) {
  const words = name.replace("/", "-").split("-");
  const pick = (known) => known.filter((word) => words.includes(word));
  const libc =
    words.includes("musl") || words.includes("musleabihf") ? ["musl"] : words.includes("gnu") ? ["glibc"] : [];
  const cpu = words.includes("wasi") ? ["wasm32"] : pick(PROCESSORS);
  return Object.fromEntries(Object.entries({ cpu, os: pick(SYSTEMS), libc }).filter(([, values]) => values.length > 0));
}

let added = 0;
for (const entry of Object.values(lock.packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    const key = `node_modules/${name}`;
    if (lock.packages[key] !== undefined) continue;
    const where = platform(name);
    if (where.cpu === undefined && where.os === undefined) {
      console.error(`${name}: no platform in its name; install it once where the registry carries it`);
      continue;
    }
    lock.packages[key] = { version, ...where, ...(entry.dev ? { dev: true } : {}), optional: true };
    added++;
  }
}
const sorted = Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
lock.packages = Object.fromEntries(sorted);
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
console.log(`${added} entries added`);
