/** Options that several commands share, and parsers that say what was expected. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { PoolOptions } from "../engine/pool.js";
import { type DeviceChoice, deviceChoices, onDevice } from "./on-device.js";

/** How the help names what every command takes for a model. */
export const MODEL = "Hugging Face folder, run directory, PEFT adapter folder, or the hub id of a downloaded model";
export const algoOption = () => new Option("--algo <name>", "algorithm (default: grpo)").choices(["grpo", "ppo"]);
export const configOption = () =>
  new Option("--config <file>", "YAML; may be repeated, later files win (default: configs/starter.yaml)").argParser(
    (file, files: string[] | undefined) => [...(files ?? []), file],
  );
export const backendOption = () =>
  new Option("--backend <name>", "of TensorFlow.js").choices(["auto", "tensorflow", "wasm", "cpu"]).default("auto");
export const acceptOption = () =>
  new Option("--accept-changed-inputs", "with --resume: go on though model, tokenizer, data or rewards have changed");
export const threadsOption = () => new Option("--threads <n>", "0 = all cores").argParser(atLeast(0)).default(0);

export type EngineFlags = Required<Omit<PoolOptions, "device">> & { readonly device: DeviceChoice };

/** @param maxRows default of --max-rows */
export function addEngineOptions(command: Command, maxRows: number): Command {
  return command
    .addOption(
      new Option("--device <name>", "auto = a GPU that can be used, else the CPU; cuda fails where it cannot")
        .choices(deviceChoices)
        .default("auto"),
    )
    .addOption(
      new Option(
        "--dtype <name>",
        "of linear layers, keys and values; float16 is meant for cuda; int8: linear layers on a CPU",
      )
        .choices(["float32", "float16", "int8"])
        .default("float32"),
    )
    .option("--engines <n>", "engines, each in a thread of its own, that share the work", atLeast(1), 1)
    .addOption(new Option("--actors <n>", "an earlier name of --engines").argParser(renamed).hideHelp())
    .option("--max-rows <n>", "completions in flight in each engine: fewer take less memory", atLeast(1), maxRows)
    .option(
      "--segment-length <n>",
      "decode steps per graph run; requests join, leave and stream between runs",
      atLeast(1),
      8,
    )
    .option("--threads <n>", "of each engine; 0 = the cores, shared out", atLeast(0), 0);
}

/** What a command reads: of a run directory the last checkpoint. */
export async function modelOf(given: string): Promise<string> {
  const { findRunConfig } = await import("../run/run-config.js");
  const { checkpointOf } = await import("../run/checkpoint.js");
  return findRunConfig(given) === undefined ? given : checkpointOf(given);
}

export function withEngines<T extends EngineFlags>(
  flags: T,
  run: (options: Omit<T, keyof EngineFlags> & { engines: PoolOptions }) => Promise<void>,
): Promise<void> {
  const { device: asked, dtype, engines, maxRows, segmentLength, threads, ...options } = flags;
  const pool = { dtype, engines, maxRows, segmentLength, threads };
  return onDevice(asked, (device) => run({ ...options, engines: { ...pool, device } }));
}

function renamed(): never {
  throw new InvalidArgumentError("Actors are processes of a training run; write --engines for threads that answer.");
}

type Parser = (text: string) => number;

const parser =
  (expected: string, accepts: (value: number, text: string) => boolean): Parser =>
  (text) => {
    const value = Number(text);
    if (!accepts(value, text)) throw new InvalidArgumentError(`Expected ${expected}.`);
    return value;
  };

export function atLeast(least: number, most = Number.MAX_SAFE_INTEGER): Parser {
  const range = most === Number.MAX_SAFE_INTEGER ? `>= ${least}` : `from ${least} to ${most}`;
  return parser(`a whole number ${range}`, (n, text) => /^\d+$/.test(text) && n >= least && n <= most);
}

export const number = (least: number): Parser =>
  parser(`a number >= ${least}`, (n, text) => text.trim() !== "" && Number.isFinite(n) && n >= least);

export const above = (limit: number): Parser => parser(`a number > ${limit}`, (n) => Number.isFinite(n) && n > limit);

export const share: Parser = parser("a number from 0 to 1", (n, text) => text.trim() !== "" && n >= 0 && n <= 1);

/** Parses an amount of memory, "80GB" or "40GiB", into bytes. */
export function memorySize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(G|GB|GiB|M|MB|MiB)$/i.exec(text.trim());
  if (match === null) throw new InvalidArgumentError("Expected an amount of memory, such as 80GB or 40GiB.");
  const unit = match[2]!.toLowerCase();
  return Number(match[1]) * (unit.endsWith("ib") ? 1024 : 1000) ** (unit.startsWith("g") ? 3 : 2);
}
