/** What is refused before a run is started or anything is written. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { RunConfig } from "../config/schema.js";
import { UserError } from "../errors.js";
import { providerInPlace } from "../machine/onnx-provider.js";
import { readModelConfig } from "../model/config.js";
import { configFile } from "../run/paths.js";
import { readRunConfig } from "../run/run-config.js";

/** @throws UserError for missing files and unsupported models */
export function checkInputs(run: RunConfig): void {
  const { maxPositions } = readModelConfig(run.model.path);
  if (run.max_completion_length >= maxPositions)
    throw new UserError(
      `max_completion_length (${run.max_completion_length}) leaves no room for a prompt: ${run.model.path} holds ${maxPositions} tokens. Lower it.`,
    );
  for (const key of ["train", "validation"] as const) {
    const source = run.data[key];
    if (source !== "starter" && !existsSync(source))
      throw new UserError(
        `data.${key}: expected "starter" or a JSONL file, found nothing at ${source}. Correct the path.`,
      );
  }
}

/** What a user should know before the run starts, about its model's files. */
export async function modelNotes({ model: { path } }: RunConfig): Promise<string[]> {
  if (!existsSync(join(path, "tokenizer.json"))) return []; // the learner says so
  const { loadTokenizer, turnEndNote } = await import("../model/tokenizer.js");
  return [turnEndNote(loadTokenizer(path)) ?? []].flat();
}

/** Looks before anything is written. @throws UserError when a resumed run is given another model */
export async function checkMovedModel(runDir: string, run: RunConfig, isAccepted: boolean): Promise<void> {
  if (readRunConfig(configFile(runDir)).model.path === run.model.path) return;
  const { compareModel } = await import("../run/inputs.js");
  compareModel(runDir, run, isAccepted);
}

/** @throws UserError saying what is missing where CUDA was requested and cannot be used */
export async function checkDevices(run: RunConfig): Promise<void> {
  const asked = (["learner", "actors"] as const).filter((side) => run[side].device === "cuda");
  if (asked.length === 0) return;
  const provider = providerInPlace();
  if (run.serial && asked.length === 2 && provider !== undefined && provider !== "12")
    throw new UserError(
      `--serial with both devices cuda: expected ONNX Runtime's provider for CUDA 12, as TensorFlow's, because one process ` +
        `loads both; found the one for CUDA ${provider}. Leave out --serial, or put one side on the CPU.`,
    );
  const { whyNoCuda } = await import("../doctor/describe.js");
  const obstacle = await whyNoCuda(asked);
  if (obstacle !== null)
    throw new UserError(
      `${asked.map((side) => `${side}.device=cuda`).join(" and ")}: CUDA cannot be used on this machine.\n${obstacle.report}`,
    );
}
