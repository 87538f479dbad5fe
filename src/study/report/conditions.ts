/** Sections on what was run: differences between algorithms, configuration, environment. */
import { isAbsolute } from "node:path";
import { originOf } from "../../model/hub.js";
import type { StudyRecord } from "../directory.js";
import { type Block, type Section, label, table } from "./document.js";
import type { Gathered } from "./gather.js";

/** The head of a study's report: the shared settings in which the algorithms differ. */
export function differencesSection({ study }: Gathered): Section {
  const caption = "Settings that both have and in which they differ; the others are equal.";
  const text = "Nothing but their names: the algorithms share every setting that both have.";
  const blocks: Block[] = study === null ? [] : settingsTable(study, study.differences, caption);
  if (study !== null && blocks.length === 0) blocks.push({ kind: "text", text });
  return { id: "settings", title: "What the algorithms do differently", blocks };
}

function settingsTable(study: StudyRecord, settings: StudyRecord["own"], caption: string): Block[] {
  if (settings.length === 0) return [];
  const cellOf = (algorithm: string) => (setting: StudyRecord["own"][number]) => shown(setting.values[algorithm]);
  const columns = Object.keys(study.definition.algorithms).map((name) => [label(name), cellOf(name)] as const);
  return [{ ...table(caption, settings, [["setting", ({ key }) => key], ...columns]), words: true }];
}

export function configurationSection({ study, runs }: Gathered): Section {
  const own = study === null ? [] : settingsTable(study, study.own, "Settings that only some of the algorithms have.");
  const resolved = runs.slice(0, 1).map(({ name, config }): Block => {
    const whose = study === null ? "" : ` of ${name}; the others differ in seed, and in what stands above and on top`;
    const rows = flat(config).map(([key, value]) => [key, shown(value)]);
    return { kind: "table", words: true, caption: `The resolved configuration${whose}.`, head: ["key", "value"], rows };
  });
  return { id: "configuration", title: "Configuration", blocks: [...own, ...resolved] };
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
  const summary = runs.find(({ summary }) => summary !== null)?.summary;
  const metrics = baseline[0]?.metrics;
  const rows = Object.entries({
    commit: study?.commit ?? summary?.commit ?? "unknown",
    "uncommitted changes":
      study?.uncommitted_changes === true ? "yes: the commit alone does not reproduce this" : undefined,
    "learner backend": summary?.backend,
    ...Object.fromEntries(flat(study?.machine ?? {}).map(([key, value]) => [key.replaceAll("_", " "), String(value)])),
    "model before training": shortName(runs[0]?.config.model.path ?? "unknown"),
    "its weights (sha256)": metrics?.weights_sha256,
    "questions (sha256)": metrics?.questions_sha256,
    "training data": shortName(runs[0]?.config.data.train ?? "unknown"),
    "held-out data": shortName(runs[0]?.config.data.validation ?? "unknown"),
  }).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]]));
  return {
    id: "environment",
    title: "Environment",
    blocks: [{ kind: "table", words: true, caption: "With what these figures were made.", head: ["", ""], rows }],
  };
}
