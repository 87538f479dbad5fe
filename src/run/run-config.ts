/** Reads the resolved configuration of a run. */
import { existsSync } from "node:fs";
import { z } from "zod";
import { runConfigSchema, type RunConfig } from "../config/schema.js";
import { checkLayer } from "../config/validate.js";
import { jsonOf, readBytes, readJson } from "../files.js";
import { configFile } from "./paths.js";

/** Set by the launcher for its learners, those too that it starts again: changed inputs will do. */
export const ACCEPT_VARIABLE = "FINELLAMA_ACCEPT_CHANGED_INPUTS";

/** A configuration as a file holds it: keys that earlier versions wrote are passed over. */
export const storedConfigSchema = z.preprocess(withoutRetired, runConfigSchema);

/** @throws UserError when it is missing, damaged, or of another version of this program */
export function readRunConfig(file: string): RunConfig {
  const json = withoutRetired(readJson(file, z.unknown(), "Give the directory that a run was written to."));
  checkLayer(json, file);
  return runConfigSchema.parse(json);
}

/** The configuration of the run in a folder; undefined where none is (a model has no `algo`). */
export function findRunConfig(folder: string): RunConfig | undefined {
  const file = configFile(folder);
  const json = existsSync(file) ? jsonOf(readBytes(file).toString("utf8")) : undefined;
  return typeof json === "object" && json !== null && "algo" in json ? readRunConfig(file) : undefined;
}

function withoutRetired(json: unknown): unknown {
  if (typeof json !== "object" || json === null || !("transport" in json)) return json;
  if (typeof json.transport !== "object" || json.transport === null) return json;
  const { chunk_bytes: _, ...transport } = json.transport as Record<string, unknown>;
  return { ...json, transport };
}
