/**
 * `node scripts/check-prose.mjs`: the rules of CONTRIBUTING.md for comments that a script can
 * check. A docstring does not begin with "Of", none of its sentences has more than 25 words, and no
 * comment line is wider than 100 columns. Exits 1 and names each place that breaks a rule.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";

const WIDEST = 100;
const MOST_WORDS = 25;
const tracked = execFileSync("git", ["ls-files", "-co", "--exclude-standard", "src", "bench", "test", "scripts"], {
  encoding: "utf8",
});
const files = tracked.split("\n").filter((file) => /\.(ts|mjs)$/.test(file) && existsSync(file));

/**
 * Splits a docstring into sentences. Tags, list items and paragraphs end one; tables and drawings
 * are left out.
 */
function sentences(body) {
  return body
    .split("\n")
    .map((line) => (/\S {2,}\S|[─│▶=·Σ]/.test(line) ? "" : line))
    .join("\n")
    .split(/\n\s*\n|\n\s*[-*\d][.)]?\s|@\w+/)
    .map((part) => part.replace(/\s+/g, " ").trim())
    .flatMap((part) => part.split(/(?<=[.!?:;])\s+/));
}

const broken = [];
for (const file of files) {
  const text = readFileSync(file, "utf8");
  for (const [i, line] of text.split("\n").entries())
    if (/^\s*(\/\*\*?|\*|\/\/)/.test(line) && line.length > WIDEST)
      broken.push(`${file}:${i + 1}: a comment line of ${line.length} columns, at most ${WIDEST}`);
  for (const match of text.matchAll(/\/\*\*([\s\S]*?)\*\//g)) {
    const where = `${file}:${text.slice(0, match.index).split("\n").length}`;
    const body = match[1].replace(/^[ \t]*\* ?/gm, "").trim();
    if (/^Of\b/.test(body)) broken.push(`${where}: a docstring that begins with "Of": give the sentence a subject`);
    const long = sentences(body).find((sentence) => sentence.split(" ").length > MOST_WORDS);
    if (long !== undefined)
      broken.push(
        `${where}: a sentence of ${long.split(" ").length} words, at most ${MOST_WORDS}: "${long.slice(0, 50)}…"`,
      );
  }
}
for (const line of broken) console.error(line);
console.error(`${files.length} files, ${broken.length} places break a rule of prose`);
process.exitCode = broken.length === 0 ? 0 : 1;
