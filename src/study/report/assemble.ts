/** Assembles a directory's report as a document and as figures. Writes nothing. */
import { basename } from "node:path";
import { type Document, label } from "./document.js";
import { type Gathered, gather } from "./gather.js";
import { flows, results } from "./results.js";
import { auditSection, flowSection, samplesSection } from "./answers.js";
import { accuracySection, comparisonSection } from "./models.js";
import { configurationSection, differencesSection, environmentSection, shortName } from "./conditions.js";
import { beforeAfter, behaviourSection, costSection, learningSection } from "./training.js";
import { type SeriesStyle, baselineStyle, styleOf } from "./charts/common.js";
import { account } from "./accounts.js";
import { algorithmsOf, metricCurves, validationCurves } from "./bands.js";

/** @throws UserError when the directory is neither a study nor a run, or a file in it is damaged */
export function makeReport(dir: string): { document: Document; figures: object } {
  const gathered = gather(dir);
  const { study, runs, comparison, missing } = gathered;
  const [ofModels, flow, accounts] = [results(gathered), flows(gathered), runs.map(account)];
  const styles = stylesOf(gathered);
  const primary = study?.definition.primary ?? "sampled";
  const sections = [
    differencesSection(gathered),
    accuracySection(ofModels, styles),
    comparisonSection(gathered, styles),
    learningSection(gathered, styles, primary),
    flowSection(flow, ofModels),
    behaviourSection(gathered, styles),
    auditSection(accounts, ofModels),
    costSection(accounts),
    samplesSection(gathered, primary),
    environmentSection(gathered),
    configurationSection(gathered),
  ].filter(({ blocks }) => blocks.length > 0);
  const verdict = verdictOf(gathered);
  return {
    document: { title: titleOf(gathered), subtitle: subtitleOf(gathered), verdict, missing, sections },
    figures: {
      version: 1,
      verdict,
      missing,
      results: ofModels,
      comparison,
      validation: { sampled: validationCurves(runs, "sampled"), greedy: validationCurves(runs, "greedy") },
      training: Object.fromEntries(
        ["reward", "completions/mean_length", "entropy", "kl"].map((metric) => [metric, metricCurves(runs, metric)]),
      ),
      flows: flow,
      runs: accounts,
      environment: { commit: study?.commit ?? runs[0]?.summary?.commit ?? null, machine: study?.machine ?? null },
    },
  };
}

function verdictOf({ study, runs, comparison }: Gathered): string[] {
  if (comparison !== null) return [comparison.verdict];
  if (study !== null) return ["None yet: the study has no comparison.json. Run it to its end."];
  const gains = runs.flatMap(beforeAfter);
  if (gains.length === 0) return ["None yet: the run has no evaluation before and after."];
  return [
    ...gains,
    "In brackets 95 % intervals. This is one run: another seed of the same recipe may differ by several points.",
  ];
}

const titleOf = ({ study, dir, runs }: Gathered): string =>
  study === null ? `${label(runs[0]!.algorithm)} run ${basename(dir)}` : `Study ${study.definition.name}`;

function subtitleOf({ study, runs, baseline }: Gathered): string {
  const parts =
    study === null
      ? [`seed ${runs[0]!.config.seed}`]
      : [
          Object.keys(study.definition.algorithms).map(label).join(" and "),
          `seeds ${study.definition.seeds.join(", ")}`,
          ...baseline.slice(0, 1).map(({ metrics }) => `${metrics.n} questions of ${shortName(metrics.data)}`),
        ];
  const steps = Math.max(...runs.map(({ config }) => config.max_steps));
  const training = runs
    .slice(0, 1)
    .flatMap(({ config: { model, generation_batch_size: batch } }) => [
      shortName(model.path),
      `${steps} iterations of ${batch} completions`,
    ]);
  return [...parts, ...(runs.length === 0 ? ["nothing has run yet"] : training)].join(" · ");
}

/** The style that each name has in all charts; missing runs of a study have one, too. */
function stylesOf({ study, runs }: Gathered): Map<string, SeriesStyle> {
  const names = study === null ? algorithmsOf(runs) : Object.keys(study.definition.algorithms);
  return new Map([["baseline", baselineStyle], ...names.map((name, i) => [name, styleOf(i)] as const)]);
}
