/** Sections on the models: their accuracies, and the differences between them. */
import { mean } from "../../math/statistics.js";
import { modes } from "../../eval/folder/names.js";
import { type SeriesStyle, baselineStyle } from "./charts/common.js";
import { intervalChart } from "./charts/rows.js";
import { duration, percent, points, range, signed, whole } from "../../terminal/format.js";
import { type Block, type Section, label, table } from "./document.js";
import type { Result } from "./results.js";
import type { Difference, Gathered } from "./gather.js";

export function accuracySection(results: readonly Result[], styles: ReadonlyMap<string, SeriesStyle>): Section {
  const several = new Set(results.map(({ prompt }) => prompt)).size > 1;
  const largest = Math.max(0, ...results.flatMap(({ pass_at_k }) => Object.keys(pass_at_k).map(Number)));
  const atLargest = (kind: "pass" | "maj") => {
    const cell = (one: Result): string => optional(one[`${kind}_at_k`][largest]);
    return largest > 1 ? [[`${kind}@${largest}`, cell] as const] : [];
  };
  const blocks: Block[] = [
    table(
      "Accuracy on held-out questions, by the rule that rewards in training; of the first sample of each question, where the verdict counts all samples. Intervals are 95 %: of one model Wilson's over questions, of an algorithm the wider of that and Student's t over its seeds.",
      results,
      [
        ["", (one) => label(one.who)],
        ...(several ? [["prompt", (one: Result) => one.prompt] as const] : []),
        ["mode", (one) => one.mode],
        ["accuracy", (one) => percent(one.accuracy)],
        ["95 % interval", (one) => range(one.ci95)],
        ["by seed", (one) => (one.seeds.length > 1 ? one.accuracies.map(points).join(", ") : "")],
        ["in format", (one) => percent(one.format_rate)],
        ["cut off", (one) => percent(one.truncation_rate)],
        ["tokens", (one) => one.mean_length.toFixed(1)],
        ...atLargest("pass"),
        ...atLargest("maj"),
      ],
    ),
  ];
  for (const mode of modes) {
    const ofMode = results.filter((one) => one.mode === mode);
    if (ofMode.length === 0) continue;
    const prompts = [...new Set(ofMode.map(({ prompt }) => prompt))];
    const rows = prompts.flatMap((prompt) =>
      Object.keys(ofMode[0]!.extractors).map((extractor) => ({ prompt, extractor })),
    );
    const whos = [...new Set(ofMode.map(({ who }) => who))];
    const estimates = whos.map((who) => ({
      name: label(who),
      style: styles.get(who)!,
      estimates: rows.map(({ prompt, extractor }) => {
        const found = ofMode.find((one) => one.who === who && one.prompt === prompt)?.extractors[extractor];
        return found === undefined ? null : { value: found.accuracy, low: found.ci95[0], high: found.ci95[1] };
      }),
    }));
    blocks.push({
      kind: "chart",
      name: `accuracy-${mode}`,
      wide: true,
      svg: intervalChart(
        { name: `accuracy, ${mode}`, percent: true },
        rows.map(({ prompt, extractor }) => (several ? `${prompt}, ${extractor}` : extractor)),
        estimates,
      ),
      alt: `Accuracy (${mode}) by extractor. ${estimates.map(({ name, estimates }) => `${name}: ${rows.map(({ extractor }, i) => `${extractor} ${estimates[i] === null ? "none" : percent(estimates[i]!.value)}`).join(", ")}`).join(". ")}.`,
      caption: `Accuracy, ${mode}, as five extractors read the same completions; whiskers are 95 % intervals, made as in the table.`,
    });
  }
  return { id: "accuracy", title: "Accuracy", blocks };
}

const optional = (share: number | undefined): string => (share === undefined ? "" : percent(share));

const matchedBy = { rollouts: "equal completions", tokens: "equal tokens", wall_time: "equal training time" } as const;

/** The comparison of a study: algorithms at equal budgets, then checkpoints to the baseline. */
export function comparisonSection({ comparison }: Gathered, styles: ReadonlyMap<string, SeriesStyle>): Section {
  const blocks: Block[] = [];
  if (comparison !== null) {
    const { primary, secondary, evaluations, notes } = comparison;
    const all = [
      ...primary.map((one) => ({ ...one, rank: "primary" })),
      ...secondary.map((one) => ({ ...one, rank: "secondary" })),
    ];
    const several = new Set(all.map(({ prompt }) => prompt)).size > 1;
    const names = all.map((one) => {
      const [a, b] = one.algorithms.map(label) as [string, string];
      return `${b} − ${a}, ${one.mode}, ${matchedBy[one.matched_by]}${several ? `, ${one.prompt}` : ""}${one.rank === "primary" ? " (primary)" : ""}`;
    });
    blocks.push(
      ...forest(
        "differences",
        names,
        all,
        "Differences of accuracy between algorithms over training seeds; 95 % intervals by Student's t. The primary one alone carries the verdict.",
      ),
    );
    blocks.push(
      table(
        "The same in figures, in points. p is corrected by Holm's method among the primary and among the secondary comparisons. Detectable: the true difference, in points, that would be found 4 times in 5 (none: not even 100). With equal tokens or time, accuracies are read off the learning curves between two evaluations; the budget is the mean over seeds.",
        all,
        [
          ["comparison", (_, i) => names[i]!],
          ["seeds", (one) => String(one.seeds)],
          ["difference", (one) => signed(one.difference)],
          ["95 % interval", (one) => range(one.difference_ci95)],
          ["p, corrected", (one) => one.p_holm.toPrecision(2)],
          ["detectable", (one) => (one.detectable > 1 ? "none" : points(one.detectable))],
          ["budget", budgetText],
        ],
      ),
    );
    const trained = evaluations.flatMap((one) =>
      one.against_baseline === null ? [] : [{ ...one, ...one.against_baseline }],
    );
    for (const mode of modes) {
      const ofMode = trained.filter((one) => one.mode === mode);
      blocks.push(
        ...forest(
          `gain-${mode}`,
          ofMode.map(
            (one) => `${label(one.algorithm ?? "baseline")}, seed ${one.seed}${several ? `, ${one.prompt}` : ""}`,
          ),
          ofMode,
          `Gain of each trained model over the baseline, ${mode}, on the same questions; 95 % intervals by bootstrap over questions.`,
          ofMode.map((one) => styles.get(one.algorithm ?? "baseline")!),
        ),
      );
    }
    blocks.push(...notes.map((text): Block => ({ kind: "text", text })));
  }
  return { id: "comparison", title: "Differences", blocks };
}

function budgetText({ matched_by, budgets }: Difference): string {
  return matched_by === "wall_time"
    ? duration(mean(budgets))
    : `${whole(mean(budgets))} ${matched_by === "rollouts" ? "completions" : "tokens"}`;
}

function forest(
  name: string,
  rows: readonly string[],
  differences: readonly { readonly difference: number; readonly difference_ci95: readonly [number, number] }[],
  caption: string,
  styles: readonly SeriesStyle[] = rows.map(() => baselineStyle),
): Block[] {
  if (rows.length === 0) return [];
  // a series per style, so that each row keeps its algorithm's marker
  const estimates = [...new Set(styles)].map((style) => ({
    name: "",
    style,
    estimates: differences.map(({ difference: value, difference_ci95: [low, high] }, i) =>
      styles[i] === style ? { value, low, high } : null,
    ),
  }));
  const alt = `${caption} ${rows.map((row, i) => `${row}: ${signed(differences[i]!.difference)} points ${range(differences[i]!.difference_ci95)}`).join("; ")}.`;
  return [
    {
      kind: "chart",
      name,
      wide: true,
      svg: intervalChart({ name: "difference of accuracy (points)", scale: 100 }, rows, estimates, "forest"),
      alt,
      caption,
    },
  ];
}
