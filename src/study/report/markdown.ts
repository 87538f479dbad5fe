/** A report as Markdown (GitHub's); charts are files beside it. Knows no figures. */
import type { Block, Document } from "./document.js";

/** @param figures folder of the charts, relative to the file */
export function toMarkdown({ title, subtitle, verdict, missing, sections }: Document, figures: string): string {
  return [
    `# ${plain(title)}`,
    plain(subtitle),
    "## Verdict",
    ...verdict.map((line) => `> ${plain(line)}`),
    ...(missing.length === 0 ? [] : ["## Incomplete", missing.map((line) => `- ${plain(line)}`).join("\n")]),
    ...sections.flatMap(({ title, blocks }) => [`## ${plain(title)}`, ...blocks.map((one) => block(one, figures))]),
    "",
  ].join("\n\n");
}

function block(one: Block, figures: string): string {
  switch (one.kind) {
    case "text":
      return plain(one.text);
    case "chart":
      return `![${plain(one.alt)}](${figures}/${one.name}.svg)\n\n_${plain(one.caption)}_`;
    case "table": {
      const row = (cells: readonly string[]): string =>
        `| ${cells.map((cell) => plain(cell).replaceAll("|", "\\|")).join(" | ")} |`;
      const rule = row(one.head.map((_, i) => (i === 0 || one.words === true ? ":--" : "--:")));
      return [`_${plain(one.caption)}_`, "", row(one.head), rule, ...one.rows.map(row)].join("\n");
    }
  }
  return [
    `### ${plain(one.title)}`,
    plain(one.question),
    `Right answer: ${plain(one.gold)}`,
    ...one.sides.map(
      ({ title, text, outcome }) =>
        `${plain(title)}: ${outcome === "correct" ? "✓ right" : `✗ ${outcome}`}\n\n${fenced(text)}`,
    ),
  ].join("\n\n");
}

/** One line, nothing of it markup. */
const plain = (text: string): string => text.replace(/\s+/g, " ").replace(/[\\`*_<>[\]#]/g, "\\$&");

/** As it is, behind more backticks than it holds. */
function fenced(text: string): string {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}text\n${text}\n${fence}`;
}
