/** A study's comparison as text for the terminal. Pure functions. */
import { points, range, signed } from "../terminal/format.js";
import { type AlgorithmComparison, type StudyComparison, sentence } from "./comparison.js";
import { type Setting, inWords } from "./definition.js";

export function studyText(comparison: StudyComparison, differences: readonly Setting[]): string {
  const { primary, secondary, evaluations, notes, seeds, endpoint, verdict } = comparison;
  return [
    `Study ${comparison.study}: ${comparison.algorithms.join(", ")}; seeds ${seeds.join(", ")}`,
    ...differencesText(differences),
    "",
    "Accuracy in % (of the first sample), 95 % intervals; behind it the change from the baseline in points, mid-p McNemar with Holm's correction over all rows",
    ...evaluations.map((row) => {
      const who = row.algorithm === null ? "baseline" : `${row.algorithm} seed ${row.seed}`;
      const change = row.against_baseline;
      const gained =
        change === null
          ? ""
          : `  (${signed(change.difference)} ${range(change.difference_ci95)}, p = ${change.p_holm.toPrecision(2)})`;
      const samples =
        row.accuracy_all_samples === row.accuracy ? "" : `; all samples ${points(row.accuracy_all_samples)}`;
      return `  ${who.padEnd(16)} ${row.mode.padEnd(7)} ${row.prompt.padEnd(10)} ${points(row.accuracy)} ${range(row.ci95)}, n = ${row.n}${samples}${gained}`;
    }),
    "",
    `Primary: ${endpoint.mode} accuracy, prompt ${endpoint.prompt}, final checkpoints at equal rollouts`,
    ...primary.flatMap((c) => comparisonLines(c, primary.length)),
    "",
    "Secondary (corrected together; they do not change the verdict)",
    ...secondary.flatMap((c) => comparisonLines(c, secondary.length)),
    ...notes.map((note) => `  ${note}`),
    "",
    `VERDICT. ${verdict}`,
  ].join("\n");
}

/** The differences between algorithms, which head everything a study says. */
export function differencesText(differences: readonly Setting[]): string[] {
  if (differences.length === 0) return ["The algorithms share every setting that both have."];
  return ["The algorithms differ in:", ...differences.map((setting) => `  ${inWords(setting)}`)];
}

function comparisonLines(c: AlgorithmComparison, tests: number): string[] {
  return [
    `  ${sentence(c)}`,
    `    by seed ${c.differences.map(signed).join("  ")}; mean ${signed(c.difference)} ${range(c.difference_ci95)} points (t, ${c.seeds - 1} degrees of freedom), p = ${c.p.toPrecision(2)}, ${c.p_holm.toPrecision(2)} after Holm's correction for ${tests}; detectable ${points(c.detectable)}`,
  ];
}
