/** Prints the error classes of one evaluation, or of two and what changed; writes them as JSON. */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { writeJson } from "../files.js";
import {
  type Analysis,
  type AnswerClass,
  type Changes,
  type ClassCounts,
  analyze,
  answerClasses,
  changes,
} from "./error-classes.js";
import { percent } from "../terminal/format.js";
import { predictionsAt } from "./folder/read-results.js";

export interface AnalyzeOptions {
  readonly json?: string;
}

const names = Object.keys(answerClasses) as AnswerClass[];

/** @param before predictions.jsonl or its folder @throws UserError unless files can be paired */
export function runAnalyze(before: string, after: string | undefined, { json }: AnalyzeOptions): void {
  const files = after === undefined ? [before] : [before, after];
  const predictions = files.map(predictionsAt);
  const changed = after === undefined ? [] : changes(predictions[0]!, predictions[1]!, [before, after]);
  const analyses = predictions.map(analyze);
  const lines = analyses.flatMap((list, i) => list.flatMap((one) => analysisLines(files[i]!, one)));
  console.log([...lines, ...changed.flatMap((one) => changeLines(one, files))].join("\n").trimEnd());
  if (json === undefined) return;
  mkdirSync(dirname(json), { recursive: true });
  const ofFiles = files.map((file, i) => ({ file, analyses: analyses[i] }));
  writeJson(json, { classes: answerClasses, files: ofFiles, changes: changed });
}

function analysisLines(file: string, { mode, all, by_length, by_steps, by_operation, slips }: Analysis): string[] {
  const seen = names.filter((name) => all.classes[name] > 0);
  const head = ["", "n", ...seen];
  const row = ({ group, n, classes }: ClassCounts): string[] => [
    group,
    String(n),
    ...seen.map((name) => share(classes[name], n)),
  ];
  const parts: [string, readonly ClassCounts[]][] = [
    ["by length", by_length],
    ["by steps of the data's solution", by_steps],
    ["by operation in it (a question may stand in several rows)", by_operation],
  ];
  const rows = [head, row(all), ...parts.flatMap(([title, groups]) => [[title], ...groups.map(row)])];
  return [
    `${file}, ${mode}: ${all.n} completions`,
    ...aligned(rows),
    ...seen.map((name) => `  ${name}: ${answerClasses[name]}`),
    ...(slips.length === 0 ? [] : ["  first slips:"]),
    ...slips.map(({ id, equation, value }) => `    ${id}: ${equation} (is ${Number(value.toPrecision(6))})`),
    "",
  ];
}

function changeLines({ mode, n, classes, ...flow }: Changes, files: readonly string[]): string[] {
  return [
    `${files.join(" → ")}, ${mode}: ${n} completions of the same questions`,
    ...aligned([
      ["", "right after", "wrong after"],
      ["right before", share(flow.right_right, n), share(flow.right_wrong, n)],
      ["wrong before", share(flow.wrong_right, n), share(flow.wrong_wrong, n)],
    ]),
    ...classes
      .filter(({ before, after }) => before !== after)
      .map((one) => `  ${String(one.n).padStart(5)}  ${one.before} → ${one.after}`),
    "",
  ];
}

const share = (count: number, n: number): string => `${count} (${percent(count / n)})`;

/** Columns of equal width, the first to the left; a row of one cell is a heading. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const wide = rows.filter((row) => row.length > 1);
  const widths = wide[0]!.map((_, c) => Math.max(...wide.map((row) => row[c]!.length)));
  return rows.map((row) =>
    row.length === 1
      ? ` ${row[0]}`
      : `  ${row.map((cell, c) => (c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!))).join("  ")}`,
  );
}
