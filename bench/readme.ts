/** Writes the tables of bench/results/*.json between the marks of bench/README.md. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { SavedResult } from "./report.js";
import { table } from "./report.js";
import { benchFile } from "./side.js";

const [BEGIN, END] = ["<!-- BENCH RESULTS -->", "<!-- /BENCH RESULTS -->"];

/** @param names in the order of the page; those without a file are left out */
export function writeResults(names: readonly string[]): void {
  const blocks = names.flatMap((name) => {
    const file = benchFile(`results/${name}.json`);
    if (!existsSync(file)) return [];
    const saved = JSON.parse(readFileSync(file, "utf8")) as SavedResult;
    const { date, cores, cpu, commit, othersBusyShare } = saved;
    const where = `\`${name}\`, ${date.slice(0, 10)}, ${cores} cores (${cpu}), commit ${commit?.slice(0, 7) ?? "unknown"}:`;
    return [
      `${where}\n\n\`\`\`text\n${table(saved, othersBusyShare)}\n\`\`\`\n\n![${saved.title}](results/${name}.svg)`,
    ];
  });
  const page = benchFile("README.md");
  const text = readFileSync(page, "utf8");
  const [from, to] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`${page}: expected ${BEGIN} and ${END}, found no such pair`);
  writeFileSync(page, `${text.slice(0, from + BEGIN.length)}\n\n${blocks.join("\n\n")}\n\n${text.slice(to)}`);
}
