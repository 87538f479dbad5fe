/**
 * A benchmark's result as a plain table and as a JSON file, with the circumstances it was measured
 * in.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import type { BenchResult } from "./bench.js";
import { barChart, lineChart } from "./charts.js";
import { figure, percent } from "./figure.js";
import { repositoryFile } from "./side.js";

const resultsFolder = repositoryFile("bench/results");

/** Others using more than this share of the cores spoil a measurement. */
const MAX_BUSY_SHARE = 0.05;

/**
 * Plain text; one line for each case.
 * @param busy share of the cores that others used just before
 */
export function table(result: BenchResult, busy: number): string {
  const { title, unit, better, peerNames, cases, notes } = result;
  const head = [
    "",
    `ours ${unit}`,
    "spread",
    ...peerNames.flatMap((name) => [`${name} ${unit}`, "spread", "ours/peer"]),
  ];
  const rows = cases.map(({ name, ours, peers }) => [
    name,
    figure(ours.median),
    percent(ours.spread),
    ...peerNames.flatMap((peerName) => {
      const peer = peers[peerName];
      return peer === undefined ? ["-", "", ""] : [figure(peer.median), percent(peer.spread), peer.ratio.toFixed(2)];
    }),
  ]);
  const widths = head.map((_, c) => Math.max(...[head, ...rows].map((row) => row[c]!.length)));
  const lines = [head, ...rows].map((row) =>
    row
      .map((cell, c) => (c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
      .join("  ")
      .trimEnd(),
  );
  const unfit =
    busy > MAX_BUSY_SHARE
      ? [`DO NOT BELIEVE THESE: other programs used ${percent(busy)} of the cores; two-threaded torch suffers most.`]
      : [];
  return [`${title} (${better} is better; medians)`, ...lines, ...notes, ...unfit].join("\n");
}

/** Where and with what a result was measured. */
export function machine() {
  const versions = (name: string) =>
    (JSON.parse(readFileSync(repositoryFile(`node_modules/${name}/package.json`), "utf8")) as { version: string })
      .version;
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    platform: `${process.platform} ${process.arch}`,
    commit: commit(),
    versions: {
      node: process.versions.node,
      "onnxruntime-node": versions("onnxruntime-node"),
      "@tensorflow/tfjs": versions("@tensorflow/tfjs"),
    },
  };
}

/** HEAD, marked when tracked files differ from it; null outside a repository. */
function commit(): string | null {
  const git = (...args: string[]) =>
    execFileSync("git", args, {
      cwd: repositoryFile(""),
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  try {
    const changed = git("status", "--porcelain", "--untracked-files=no") !== "";
    return git("rev-parse", "HEAD") + (changed ? " with changes" : "");
  } catch {
    return null;
  }
}

/**
 * Share of the machine's cores that others use, over two seconds in which this program computes
 * nothing.
 */
export async function busyShare(): Promise<number> {
  const times = () => cpus().map(({ times }) => times);
  const before = times();
  await setTimeout(2_000);
  let [all, idle] = [0, 0];
  times().forEach((now, core) => {
    for (const kind of ["user", "nice", "sys", "idle", "irq"] as const) all += now[kind] - before[core]![kind];
    idle += now.idle - before[core]!.idle;
  });
  return 1 - idle / all;
}

/** What a JSON file of bench/results/ holds, besides more of the circumstances. */
interface SavedResult extends BenchResult {
  readonly name: string;
  readonly date: string;
  readonly cpu: string;
  readonly cores: number;
  readonly commit: string | null;
  readonly othersBusyShare: number;
}

/** Where and when a result was measured, and its table. */
function page(saved: SavedResult): string {
  const { name, date, cores, cpu, commit: at, othersBusyShare } = saved;
  const where = `${name}, ${date.slice(0, 10)}, ${cores} cores (${cpu}), commit ${at?.slice(0, 7) ?? "unknown"}`;
  return `${where}\n\n${table(saved, othersBusyShare)}\n`;
}

/** Writes bench/results/<name>.txt again, from the JSON files that are there. */
export function writeTables(names: readonly string[]): void {
  for (const name of names) {
    const file = join(resultsFolder, `${name}.json`);
    if (!existsSync(file)) continue;
    const saved = JSON.parse(readFileSync(file, "utf8")) as SavedResult;
    writeFileSync(join(resultsFolder, `${name}.txt`), page(saved));
  }
}

/** Writes bench/results/<name>.json, .txt and .svg; returns the folder. */
export function save(
  name: string,
  result: BenchResult,
  surroundings: ReturnType<typeof machine> & { readonly othersBusyShare: number },
): string {
  mkdirSync(resultsFolder, { recursive: true });
  const saved: SavedResult = { name, date: new Date().toISOString(), ...surroundings, ...result };
  writeFileSync(join(resultsFolder, `${name}.json`), `${JSON.stringify(saved, null, 2)}\n`);
  writeFileSync(join(resultsFolder, `${name}.txt`), page(saved));
  writeFileSync(
    join(resultsFolder, `${name}.svg`),
    result.curves === undefined ? barChart(result) : lineChart(result, result.curves),
  );
  return resultsFolder;
}
