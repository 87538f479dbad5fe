/** Sections on what was run: differences between algorithms, configuration, environment. */
import { isAbsolute } from "node:path";
import { originOf } from "../../model/hub.js";
import type { StudyRecord } from "../directory.js";
import { type Block, type Section, label } from "./document.js";
import type { Gathered } from "./gather.js";

/** The head of a study's report: the shared settings in which the algorithms differ. */
export function differencesSection({ study }: Gathered): Section {
  const blocks =
    study === null
      ? []
      : [
          settingsTable(
            study,
            study.differences,
            "Settings that both have and in which they differ; the others are equal.",
          ) ?? equal,
        ];
  return { id: "settings", title: "What the algorithms do differently", blocks };
}

const equal: Block = {
  kind: "text",
  text: "Nothing but their names: the algorithms share every setting that both have.",
};

function settingsTable(study: StudyRecord, settings: StudyRecord["own"], caption: string): Block | null {
  const algorithms = Object.keys(study.definition.algorithms);
  if (settings.length === 0) return null;
  return {
    kind: "table",
    words: true,
    caption,
    head: ["setting", ...algorithms.map(label)],
    rows: settings.map(({ key, values }) => [key, ...algorithms.map((algorithm) => shown(values[algorithm]))]),
  };
}

export function configurationSection({ study, runs }: Gathered): Section {
  const blocks: (Block | null)[] = [];
  if (study !== null) blocks.push(settingsTable(study, study.own, "Settings that only some of the algorithms have."));
  const [first] = runs;
  if (first !== undefined) {
    const whose =
      study === null ? "" : ` of ${first.name}; the others differ in seed, and in what stands above and on top`;
    const rows = flat(first.config).map(([key, value]) => [key, shown(value)]);
    blocks.push({
      kind: "table",
      words: true,
      caption: `The resolved configuration${whose}.`,
      head: ["key", "value"],
      rows,
    });
  }
  return { id: "configuration", title: "Configuration", blocks: blocks.filter((block) => block !== null) };
}

const shown = (value: unknown): string =>
  value === undefined ? "—" : typeof value === "string" ? shortName(value) : JSON.stringify(value);

/** Shortens a path to what it names: `…/assets/starter`, `Qwen/Qwen2.5-3B-Instruct@aa8e725`. */
export function shortName(text: string): string {
  const hub = originOf(text);
  if (hub !== undefined) return `${hub.repo}@${hub.commit.slice(0, 7)}`;
  return isAbsolute(text) ? `…/${text.split("/").filter(Boolean).slice(-2).join("/")}` : text;
}

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
    ["model before training", shortName(runs[0]?.config.model.path ?? "unknown")],
    ...baseline.slice(0, 1).map(({ metrics }): [string, string] => ["its weights (sha256)", metrics.weights_sha256]),
    ...baseline.slice(0, 1).map(({ metrics }): [string, string] => ["questions (sha256)", metrics.questions_sha256]),
    ["training data", shortName(runs[0]?.config.data.train ?? "unknown")],
    ["held-out data", shortName(runs[0]?.config.data.validation ?? "unknown")],
  ];
  return {
    id: "environment",
    title: "Environment",
    blocks: [{ kind: "table", words: true, caption: "With what these figures were made.", head: ["", ""], rows }],
  };
}
