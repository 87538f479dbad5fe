/** Arguments that several commands share, and parsers that say what was expected. */
import { InvalidArgumentError, Option } from "commander";

export const backendOption = () =>
  new Option("--backend <name>", "of TensorFlow.js").choices(["auto", "tensorflow", "wasm", "cpu"]).default("auto");
export const threadsOption = () => new Option("--threads <n>", "0 = all cores").argParser(atLeast(0)).default(0);

/** Parses a whole number of at least `least`. */
export function atLeast(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || !Number.isSafeInteger(value))
      throw new InvalidArgumentError(`Expected a whole number >= ${least}.`);
    return value;
  };
}

/** Parses a number of at least `least`. */
export function number(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value < least)
      throw new InvalidArgumentError(`Expected a number >= ${least}.`);
    return value;
  };
}

/** Parses a share, 0 to 1. */
export function share(text: string): number {
  const value = number(0)(text);
  if (value > 1) throw new InvalidArgumentError("Expected a number from 0 to 1.");
  return value;
}

/** Parses a number greater than `limit`. */
export function above(limit: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isFinite(value) || value <= limit) throw new InvalidArgumentError(`Expected a number > ${limit}.`);
    return value;
  };
}

/** Parses an amount of memory, "80GB" or "40GiB", into bytes. */
export function memorySize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(G|GB|GiB|M|MB|MiB)$/i.exec(text.trim());
  if (match === null) throw new InvalidArgumentError("Expected an amount of memory, such as 80GB or 40GiB.");
  const unit = match[2]!.toLowerCase();
  return Number(match[1]) * (unit.endsWith("ib") ? 1024 : 1000) ** (unit.startsWith("g") ? 3 : 2);
}
