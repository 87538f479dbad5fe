/** Sections on what was run: differences between algorithms, configuration, environment. */
import type { Block, Section } from "../document.js";
import { label } from "../document.js";
import type { Gathered } from "../gather.js";

/** What heads the report of a study: where the algorithms differ in more than their name. */
export function differencesSection({ study }: Gathered): Section {
  const blocks: Block[] = [];
  if (study !== null) {
    const algorithms = Object.keys(study.definition.algorithms);
    const table = (caption: string, settings: typeof study.differences): Block => ({
      kind: "table",
      words: true,
      caption,
      head: ["setting", ...algorithms.map(label)],
      rows: settings.map(({ key, values }) => [key, ...algorithms.map((algorithm) => shown(values[algorithm]))]),
    });
    blocks.push(
      study.differences.length === 0
        ? { kind: "text", text: "The algorithms share every setting that both have." }
        : table("Settings that both have and in which they differ; the others are equal.", study.differences),
    );
    if (study.own.length > 0) blocks.push(table("Settings that only some of them have.", study.own));
  }
  return { id: "settings", title: "What the algorithms do differently", blocks };
}

export function configurationSection({ study, runs }: Gathered): Section {
  const [first] = runs;
  if (first === undefined) return { id: "configuration", title: "Configuration", blocks: [] };
  const others = study === null ? "" : ` of ${first.name}; the others differ in seed and as listed above`;
  const rows = flat(first.config).map(([key, value]) => [key, shown(value)]);
  return {
    id: "configuration",
    title: "Configuration",
    blocks: [
      { kind: "table", words: true, caption: `The resolved configuration${others}.`, head: ["key", "value"], rows },
    ],
  };
}

const shown = (value: unknown): string =>
  value === undefined ? "—" : typeof value === "string" ? value : JSON.stringify(value);

/** `a.b` for nested keys. */
function flat(config: object, prefix = ""): [string, unknown][] {
  return Object.entries(config).flatMap(([key, value]: [string, unknown]): [string, unknown][] =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? flat(value, `${prefix}${key}.`)
      : [[prefix + key, value]],
  );
}

export function environmentSection({ study, runs, baseline }: Gathered): Section {
  const first = runs.find(({ summary }) => summary !== null)?.summary;
  const rows: [string, string][] = [
    ["commit", study?.commit ?? first?.commit ?? "unknown"],
    ...(study?.uncommitted_changes === true
      ? [["uncommitted changes", "yes: the commit alone does not reproduce this"] as [string, string]]
      : []),
    ...(first == null ? [] : [["learner backend", first.backend] as [string, string]]),
    ...flat(study?.machine ?? {}).map(([key, value]): [string, string] => [key.replaceAll("_", " "), String(value)]),
    ["model before training", runs[0]?.config.model.path ?? "unknown"],
    ...baseline.slice(0, 1).map(({ metrics }): [string, string] => ["its weights (sha256)", metrics.weights_sha256]),
    ...baseline.slice(0, 1).map(({ metrics }): [string, string] => ["questions (sha256)", metrics.questions_sha256]),
    ["training data", runs[0]?.config.data.train ?? "unknown"],
    ["held-out data", runs[0]?.config.data.validation ?? "unknown"],
  ];
  return {
    id: "environment",
    title: "Environment",
    blocks: [{ kind: "table", words: true, caption: "With what these figures were made.", head: ["", ""], rows }],
  };
}
