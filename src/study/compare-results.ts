/** Compares evaluations, or the runs of a study: prints a table and a verdict. */
import { existsSync, mkdirSync } from "node:fs";
import { basename, dirname } from "node:path";
import { UserError } from "../errors.js";
import { writeJson } from "../files.js";
import type { CheckpointComparison, SeedComparison } from "../eval/verdict.js";
import { compareCheckpoints, compareSeeds, verdict } from "../eval/verdict.js";
import { percent, points, range, signed } from "../terminal/format.js";
import type { Mode } from "../eval/folder/names.js";
import { refuseDifferent, refuseUnpaired } from "../eval/comparable.js";
import { type EvalResult, accuracyOf, modesOf, readEvalResult } from "../eval/folder/read-results.js";
import { compareStudy } from "./comparison.js";
import { readStudyRecord, studyFile } from "./directory.js";
import { studyText } from "./text.js";

export interface CompareOptions {
  /** Result files of one algorithm, a seed each, in the order of `b`; both or neither. */
  readonly a?: readonly string[];
  readonly b?: readonly string[];
  readonly json?: string;
}

/** @param files two or more results, or one study @throws UserError when not comparable */
export function runCompare(files: readonly string[], { a, b, json }: CompareOptions): void {
  const bySeed = a !== undefined || b !== undefined;
  if (bySeed && files.length > 0)
    throw new UserError(
      `compare: expected files, or --a and --b, found both. Put ${files.join(", ")} behind one of them.`,
    );
  const study = files.find((file) => existsSync(studyFile(file)));
  if (study !== undefined && files.length > 1)
    throw new UserError(
      `compare: ${study} is the directory of a study, which is compared by itself. Give it alone, or evaluations only.`,
    );
  const report =
    study !== undefined ? studyReport(study) : bySeed ? seedReport(a ?? [], b ?? []) : checkpointReport(files);
  console.log(report.text);
  if (json === undefined) return;
  mkdirSync(dirname(json), { recursive: true });
  writeJson(json, report.json);
}

function checkpointReport(files: readonly string[]) {
  if (files.length < 2)
    throw new UserError(
      `compare: expected at least two result files of eval, or --a FILE… --b FILE…, found ${files.length}.`,
    );
  const results = files.map(readEvalResult);
  refuseDifferent(results);
  const comparisons = compareCheckpoints(results);
  const names = labels(results);
  const lines = [headline(results[0]!), ...names.map((name, i) => describe(name, results[i]!)), ""];
  for (const c of comparisons) {
    const [nameA, nameB] = [names[c.a]!, names[c.b]!];
    lines.push(
      `${c.mode}, ${nameA} and ${nameB}`,
      `  accuracy             ${nameA} ${percent(c.accuracy[0])} ${range(c.ci95[0])}   ${nameB} ${percent(c.accuracy[1])} ${range(c.ci95[1])}`,
      `  difference           ${signed(c.difference)} points ${range(c.difference_ci95)} (bootstrap over questions)`,
      `  only one is right    ${nameA} ${c.only_a}, ${nameB} ${c.only_b}   mid-p McNemar p = ${c.p.toPrecision(3)}${holm(c, comparisons.length)}`,
      `  detectable           ${c.detectable === null ? "nothing: too few questions differ" : `${points(c.detectable)} points (power 80 % after the correction)`}`,
    );
  }
  const sentences = comparisons.map((c) => `${c.mode}: ${verdict(c, names[c.a]!, names[c.b]!)}`);
  const scope = "Of these checkpoints, not of the algorithms that made them: that takes several seeds (--a, --b).";
  return {
    text: [...lines, "", ...sentences, scope].join("\n"),
    json: { kind: "checkpoints", files: results.map(provenance), comparisons, verdicts: sentences },
  };
}

function seedReport(a: readonly string[], b: readonly string[]) {
  const [ofA, ofB] = [a.map(readEvalResult), b.map(readEvalResult)];
  refuseUnpaired(ofA, ofB);
  refuseDifferent([...ofA, ...ofB]);
  const accuracies = (side: readonly EvalResult[], mode: Mode): number[] =>
    side.map((result) => accuracyOf(result, mode));
  const comparisons = compareSeeds(
    modesOf(ofA[0]!).map((mode) => ({ mode, n: ofA[0]!.n, a: accuracies(ofA, mode), b: accuracies(ofB, mode) })),
  );
  const lines = [
    headline(ofA[0]!),
    ...ofA.map((result, i) => `${describe(`A${i + 1}`, result)}\n${describe(`B${i + 1}`, ofB[i]!)}`),
    "",
  ];
  for (const c of comparisons)
    lines.push(
      `${c.mode}, ${c.seeds} seeds`,
      `  mean accuracy        A ${percent(c.accuracy[0])}   B ${percent(c.accuracy[1])}`,
      `  B − A by seed        ${c.differences.map(signed).join("  ")} points`,
      `  difference           ${signed(c.difference)} points ${range(c.difference_ci95)} (t, ${c.seeds - 1} degrees of freedom)   p = ${c.p.toPrecision(3)}${holm(c, comparisons.length)}`,
      `  detectable           ${points(c.detectable)} points (power 80 % after the correction, if seeds scatter as these did)`,
    );
  const sentences = comparisons.map((c) => `${c.mode}: ${verdict(c, "A", "B")}`);
  return {
    text: [...lines, "", ...sentences].join("\n"),
    json: { kind: "seeds", a: ofA.map(provenance), b: ofB.map(provenance), comparisons, verdicts: sentences },
  };
}

function studyReport(dir: string) {
  const comparison = compareStudy(dir);
  return { text: studyText(comparison, readStudyRecord(dir).differences), json: comparison };
}

const headline = ({ n, data, temperature }: EvalResult): string =>
  `${n} questions of ${data}, temperature ${temperature} when sampled; all intervals 95 %, differences in points`;

function describe(name: string, { file, model, train_seed, weights_sha256 }: EvalResult): string {
  const seed = train_seed === null ? "" : `, training seed ${train_seed}`;
  return `  ${name}: ${file} (${model}${seed}, weights ${weights_sha256.slice(0, 12)})`;
}

const told = ["file", "model", "train_seed", "seed", "weights_sha256", "questions_sha256", "prompt_sha256"] as const;
const provenance = (result: EvalResult): object => Object.fromEntries(told.map((key) => [key, result[key]]));

/** The files' own names without .json where they tell the files apart, else A, B, C, … */
function labels(results: readonly EvalResult[]): string[] {
  const names = results.map(({ file }) => basename(file, ".json"));
  return new Set(names).size === names.length ? names : names.map((_, i) => String.fromCharCode(65 + i));
}

const holm = ({ p_holm }: CheckpointComparison | SeedComparison, tests: number): string =>
  `, ${p_holm.toPrecision(3)} after Holm's correction for ${tests}`;
