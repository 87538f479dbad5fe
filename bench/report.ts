/** A benchmark's result as a plain table, a JSON file and an SVG chart. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import * as echarts from "echarts";
import type { BenchResult, CaseResult } from "./bench.js";
import { repositoryFile } from "./side.js";

/** Others using more than this share of the cores spoil a measurement. */
const MAX_BUSY_SHARE = 0.05;

/** Plain text; one line for each case. @param busy share of the cores that others used just before */
export function table(result: BenchResult, whyNoPeer: string, busy: number): string {
  const { title, unit, better, peerName, cases, notes } = result;
  const hasPeer = peerName !== "";
  const head = ["", `ours ${unit}`, "spread", ...(hasPeer ? [`${peerName} ${unit}`, "spread", "ours/peer"] : [])];
  const rows = cases.map(({ name, ours, peer, ratio }) => [
    name,
    figure(ours.median),
    percent(ours.spread),
    ...(hasPeer
      ? peer === null || ratio === null
        ? ["skipped", "", ""]
        : [figure(peer.median), percent(peer.spread), ratio.toFixed(2)]
      : []),
  ]);
  const widths = head.map((_, c) => Math.max(...[head, ...rows].map((row) => row[c]!.length)));
  const lines = [head, ...rows].map((row) =>
    row
      .map((cell, c) => (c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
      .join("  ")
      .trimEnd(),
  );
  const skipped = hasPeer && cases.some(({ peer }) => peer === null) ? [`Peer skipped: ${whyNoPeer}`] : [];
  const unfit =
    busy > MAX_BUSY_SHARE
      ? [`DO NOT BELIEVE THESE: other programs used ${percent(busy)} of the cores; two-threaded torch suffers most.`]
      : [];
  return [`${title} (${better} is better; medians)`, ...lines, ...notes, ...skipped, ...unfit].join("\n");
}

/** Numbers of four digits or so. */
function figure(value: number): string {
  return value >= 1_000 ? Math.round(value).toLocaleString("en-US") : value.toPrecision(3);
}

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

/** Where and with what a result was measured. */
export function machine(): Record<string, unknown> {
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

/** Share of the machine's cores that others use, over two seconds in which this program computes nothing. */
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

/** Writes bench/results/<name>.json and .svg; returns the folder. */
export function save(name: string, result: BenchResult, surroundings: Record<string, unknown>): string {
  const folder = repositoryFile("bench/results");
  mkdirSync(folder, { recursive: true });
  const date = new Date().toISOString();
  writeFileSync(
    join(folder, `${name}.json`),
    `${JSON.stringify({ name, date, ...surroundings, ...result }, null, 2)}\n`,
  );
  writeFileSync(join(folder, `${name}.svg`), chart(result));
  return folder;
}

/** Horizontal bars of the medians, labelled with them and with the lowest and highest measurement. */
function chart({ title, unit, better, peerName, cases }: BenchResult): string {
  const sides = [
    { name: "ours", color: "#0b6e99", of: (c: CaseResult) => c.ours },
    ...(cases.some(({ peer }) => peer !== null)
      ? [{ name: peerName, color: "#c9ced6", of: (c: CaseResult) => c.peer }]
      : []),
  ];
  const view = echarts.init(null, null, {
    renderer: "svg",
    ssr: true,
    width: 1_000,
    height: 130 + cases.length * sides.length * 22,
  });
  view.setOption({
    animation: false,
    backgroundColor: "#ffffff",
    title: {
      text: title,
      subtext: `${unit}, ${better} is better; medians, figures in brackets: lowest to highest`,
      left: 10,
      top: 8,
    },
    legend: { right: 60, top: 10, data: sides.map(({ name }) => name) },
    grid: { left: 380, right: 190, top: 75, bottom: 30 },
    xAxis: { type: "value" },
    yAxis: { type: "category", inverse: true, data: cases.map(({ name }) => name) },
    series: sides.map(({ name, color, of }) => ({
      name,
      type: "bar",
      itemStyle: { color },
      data: cases.map((c) => of(c)?.median ?? null),
      label: {
        show: true,
        position: "right",
        formatter: ({ dataIndex }: { dataIndex: number }) => {
          const measured = of(cases[dataIndex]!);
          return measured === null
            ? ""
            : `${figure(measured.median)}  [${figure(measured.min)}, ${figure(measured.max)}]`;
        },
      },
    })),
  });
  const svg = view.renderToSVGString();
  view.dispose();
  return `${svg}\n`;
}
