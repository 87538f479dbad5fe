/**
 * Where the parts of a study lie, and which are finished: its files are the only record.
 *   study.json                     algorithms, seeds, differences, program, machine
 *   owner.json                     who is running it now; only a killed process leaves it behind
 *   baseline/                      evaluation of the model that training starts from
 *   <algorithm>-seed<k>/           a run directory
 *   <algorithm>-seed<k>/eval/      evaluation of its last checkpoint, a folder for each prompt
 *   logs/<step>.log                what a child process printed
 *   comparison.json, report.html   the results
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { arch, availableParallelism, cpus, release, totalmem, type } from "node:os";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import { packageRoot } from "../config/load.js";
import { readRunConfig, storedConfigSchema } from "../run/run-config.js";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { readJson, writeJson } from "../files.js";
import { readEvalResult } from "../eval/folder/read-results.js";
import { readRunFiles, currentCommit } from "../run/records.js";
import { configFile } from "../run/paths.js";
import { type Study, type StudyDefinition, differingKeys, studySchema } from "./definition.js";

export const studyFile = (dir: string): string => join(dir, "study.json");
export const comparisonFile = (dir: string): string => join(dir, "comparison.json");
export const runDirOf = (dir: string, algorithm: string, seed: number): string => join(dir, `${algorithm}-seed${seed}`);

/** Folder of a run's evaluation, or of the baseline's where `run` is null. */
export function evalDirOf(dir: string, run: string | null, prompt: string, definition: StudyDefinition): string {
  const { prompts } = definition.eval;
  const base = run === null ? join(dir, "baseline") : join(run, "eval");
  return prompts.length === 1 ? base : join(base, prompt);
}

export const evalFile = (dir: string, run: string | null, prompt: string, definition: StudyDefinition): string =>
  join(evalDirOf(dir, run, prompt, definition), "metrics.json");

const settingSchema = z.object({ key: z.string(), values: z.record(z.string(), z.unknown()) });

const recordSchema = z.object({
  version: z.literal(1),
  definition: studySchema,
  /** Training configuration of each algorithm, with the first seed. */
  configs: z.record(z.string(), storedConfigSchema),
  differences: z.array(settingSchema),
  own: z.array(settingSchema),
  /** The latest commit of the program that ran the study; null outside a git checkout. */
  commit: z.string().nullable(),
  earlier_commits: z.array(z.string().nullable()),
  /** Whether files of the checkout differed from the commit; null outside a checkout. */
  uncommitted_changes: z.boolean().nullable(),
  machine: z.object({
    cpu: z.string(),
    cores: z.int(),
    memory_gib: z.number(),
    system: z.string(),
    node: z.string(),
    versions: z.record(z.string(), z.string()),
  }),
});

export type StudyRecord = z.infer<typeof recordSchema>;

/** @throws UserError when the directory holds no study */
export function readStudyRecord(dir: string): StudyRecord {
  const file = studyFile(dir);
  if (!existsSync(file))
    throw new UserError(`${dir}: expected the directory of a study, found no study.json in it. Check the path.`);
  return readJson(file, recordSchema, "It must be a study of this version.");
}

/** Writes or checks study.json, noting a changed program. @throws UserError for another study */
export function recordStudy(dir: string, { definition, configs, differences, own }: Study): string | null {
  const earlier = existsSync(studyFile(dir)) ? readStudyRecord(dir) : null;
  if (earlier !== null) refuseOther(dir, earlier, definition, configs);
  const commit = currentCommit();
  const changed = earlier !== null && earlier.commit !== commit;
  const record: StudyRecord = {
    version: 1,
    definition,
    configs,
    differences: [...differences],
    own: [...own],
    commit,
    earlier_commits: [...(earlier?.earlier_commits ?? []), ...(changed ? [earlier.commit] : [])],
    uncommitted_changes: uncommittedChanges(),
    machine: machine(),
  };
  writeJson(studyFile(dir), record);
  return changed
    ? `${dir} was begun with commit ${earlier.commit ?? "unknown"} and goes on with ${commit ?? "unknown"}; study.json names both.`
    : null;
}

function refuseOther(dir: string, earlier: StudyRecord, definition: StudyDefinition, configs: Study["configs"]): void {
  const parts = (Object.keys(definition) as (keyof StudyDefinition)[])
    .filter((key) => !isDeepStrictEqual(earlier.definition[key], definition[key]))
    .map((key) => `${key} (${JSON.stringify(earlier.definition[key])} and ${JSON.stringify(definition[key])})`);
  const keys = Object.entries(configs).flatMap(([algorithm, config]) => {
    const before = earlier.configs[algorithm];
    return before === undefined ? [] : differingKeys(before, config).map((key) => `${algorithm}'s ${key}`);
  });
  const found = [...parts, ...(parts.length === 0 ? keys : [])];
  if (found.length > 0)
    throw new UserError(
      `${dir}: expected the study that was begun there, found different: ${found.join(", ")}. Undo the change, or begin another study with --out DIR.`,
    );
}

/** @throws UserError when the directory holds a run of another configuration than `expected` */
export function trainingState(runDir: string, expected: RunConfig): "new" | "unfinished" | "finished" {
  if (!existsSync(configFile(runDir))) return "new";
  const found = readRunConfig(configFile(runDir));
  const keys = [...differingKeys(found, expected), ...(found.seed === expected.seed ? [] : ["seed"])];
  if (keys.length > 0)
    throw new UserError(
      `${runDir}: expected a run of this study, found one that differs in ${keys.join(", ")}. Move it away, or begin another study with --out DIR.`,
    );
  const { summary } = readRunFiles(runDir);
  return summary !== null && !summary.stopped && summary.iterations === expected.max_steps ? "finished" : "unfinished";
}

/** @throws UserError when the evaluation was made in another way than `asked` */
export function evaluationState(
  evalDir: string,
  asked: Readonly<Record<"seed" | "temperature" | "max_new_tokens" | "samples", number>>,
): "unfinished" | "finished" {
  if (!existsSync(join(evalDir, "metrics.json"))) return "unfinished";
  const result = readEvalResult(join(evalDir, "metrics.json"));
  const other = (Object.keys(asked) as (keyof typeof asked)[]).filter((key) => result[key] !== asked[key]);
  if (other.length > 0)
    throw new UserError(
      `${evalDir}: expected an evaluation of this study, found one with ${other.map((key) => `${key} ${result[key]} for ${asked[key]}`).join(", ")}. Move it away.`,
    );
  return "finished";
}

function uncommittedChanges(): boolean | null {
  try {
    const output = execFileSync("git", ["status", "--porcelain", "--untracked-files=no"], {
      cwd: packageRoot,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    return output.trim() !== "";
  } catch {
    return null;
  }
}

function machine(): StudyRecord["machine"] {
  const { version, dependencies } = JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8")) as {
    version: string;
    dependencies: Record<string, string>;
  };
  const libraries = Object.entries(dependencies).filter(([name]) => /onnxruntime|tfjs|zeromq/.test(name));
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memory_gib: Math.round(totalmem() / 2 ** 30),
    system: `${type()} ${release()} ${arch()}`,
    node: process.version,
    versions: { "finellama-rl": version, ...Object.fromEntries(libraries) },
  };
}
