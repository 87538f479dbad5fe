/** Writes report.html, report.md, report.json and the charts as SVG files. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeJson } from "../../files.js";
import { toHtml } from "./html.js";
import { toMarkdown } from "./markdown.js";
import { makeReport } from "./assemble.js";

export interface ReportOptions {
  readonly out?: string;
}

const FIGURES = "report-figures";

/** @returns the page's path @throws UserError for neither study nor run, or a damaged file */
export function writeReport(dir: string, { out = dir }: ReportOptions = {}): string {
  const { document, figures } = makeReport(dir);
  mkdirSync(join(out, FIGURES), { recursive: true });
  for (const block of document.sections.flatMap(({ blocks }) => blocks))
    if (block.kind === "chart") writeFileSync(join(out, FIGURES, `${block.name}.svg`), `${block.svg}\n`);
  writeFileSync(join(out, "report.md"), toMarkdown(document, FIGURES));
  writeJson(join(out, "report.json"), figures);
  const page = join(out, "report.html");
  writeFileSync(page, toHtml(document));
  return page;
}
