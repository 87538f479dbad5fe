/**
 * Reward functions: the built-in ones, a user's own, and what happens when they fail.
 *
 * A failure is never a reward of 0: the reward is null, and the exception is listed by type for the
 * run to count. Knows completions as texts; knows no model and no algorithm.
 */
import { existsSync } from "node:fs";
import { basename, extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { inspect } from "node:util";
import { closest, distance } from "fastest-levenshtein";
import type { RunConfig } from "../config/schema.js";
import { UserError, messageOf } from "../errors.js";
import { completionText, type Tokenizer } from "../model/tokenizer.js";
import { MAX_REWARD, type Completion, type FinishReason } from "../protocol/messages.js";
import { isWellFormed, outcomeOf } from "./extract.js";

/** A completion as reward functions see it. */
export interface ScoredText {
  /** The completion's text, without the stop token. */
  readonly text: string;
  /** [T] its token ids, the stop token included. */
  readonly ids: Int32Array;
  readonly question: string;
  /** The data set's worked answer, ending in `#### n`. */
  readonly answer: string;
  readonly finishReason: FinishReason;
}

/**
 * Scores the completions of one group at a time; one entry for each. null means "does not apply".
 * A user's ES module exports such a function as its default.
 */
export type RewardFunction = (completions: readonly ScoredText[]) => (number | null)[] | Promise<(number | null)[]>;

export interface Reward {
  readonly name: string;
  readonly weight: number;
  readonly score: RewardFunction;
}

/** Gives 1 for the right answer, else 0. */
const correctness: RewardFunction = (completions) =>
  completions.map(({ text, finishReason, answer }) => Number(outcomeOf(text, finishReason, answer) === "correct"));

/** 1 when exactly one well-formed `#### n` closes the answer, else 0. */
const format: RewardFunction = (completions) =>
  completions.map(({ text, finishReason }) => Number(finishReason === "stop" && isWellFormed(text)));

const builtIn: Readonly<Record<string, RewardFunction>> = { correctness, format };

/**
 * Soft overlong punishment, DAPO (arXiv 2503.14476) eq. 13: 0 up to maxLength − buffer tokens, then
 * falling linearly to −1 at maxLength, −1 beyond.
 */
export function softOverlongPunishment(length: number, maxLength: number, buffer: number): number {
  const free = maxLength - buffer;
  if (length <= free) return 0;
  return length <= maxLength ? (free - length) / buffer : -1;
}

/**
 * The run's reward functions, user modules imported (paths are relative to the working directory).
 * With `overlong_buffer` > 0 the punishment joins them as `soft_overlong`, weight 1.
 * @throws UserError for an unknown name, a module that cannot be loaded or exports no function, or
 *   two of one name
 */
export async function loadRewards(config: RunConfig["reward"], maxCompletionLength: number): Promise<Reward[]> {
  const rewards: Reward[] = [];
  for (const { name, weight } of config.functions) {
    const score = Object.hasOwn(builtIn, name) ? (builtIn[name] as RewardFunction) : await importReward(name);
    rewards.push({ name: shortName(name), weight, score });
  }
  const buffer = config.overlong_buffer;
  if (buffer > maxCompletionLength)
    throw new UserError(
      `reward.overlong_buffer: expected at most max_completion_length (${maxCompletionLength}), found ${buffer}. Make it smaller.`,
    );
  if (buffer > 0)
    rewards.push({
      ...OVERLONG,
      score: (completions) =>
        completions.map(({ ids }) => softOverlongPunishment(ids.length, maxCompletionLength, buffer)),
    });
  const names = rewards.map((reward) => reward.name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined)
    throw new UserError(`reward.functions: expected every name once, found "${twice}" twice. Rename or remove one.`);
  return rewards;
}

/** Whether any reward function is a module of the user's. */
export const hasOwnRewards = ({ reward }: Pick<RunConfig, "reward">): boolean =>
  reward.functions.some(({ name }) => !Object.hasOwn(builtIn, name));

/** Metrics are called rewards/<name>/mean: a module gives its file's name. */
const shortName = (name: string): string => basename(name, extname(name));

const OVERLONG = { name: "soft_overlong", weight: 1 } as const;

/** Names and weights of a run's rewards, as `loadRewards` gives them; imports no module. */
export function rewardWeights({ reward }: Pick<RunConfig, "reward">): Pick<Reward, "name" | "weight">[] {
  const functions = reward.functions.map(({ name, weight }) => ({ name: shortName(name), weight }));
  return reward.overlong_buffer > 0 ? [...functions, OVERLONG] : functions;
}

function closestBuiltIn(name: string): string {
  const nearest = closest(name, Object.keys(builtIn));
  return distance(name, nearest) <= 3 ? `; the nearest is "${nearest}"` : "";
}

async function importReward(path: string): Promise<RewardFunction> {
  if (!/\.[cm]?js$/.test(path))
    throw new UserError(
      `reward.functions: expected ${Object.keys(builtIn).join(", ")} or a path to an ES module (./my-reward.mjs), found "${path}"${closestBuiltIn(path)}.`,
    );
  const file = resolve(path);
  if (!existsSync(file))
    throw new UserError(`reward.functions: expected an ES module at ${file}, found nothing. Check the path.`);
  let module: { default?: unknown };
  try {
    module = await withTimeout(() => import(pathToFileURL(file).href) as Promise<typeof module>, DEFAULT_TIMEOUT_MS);
  } catch (error) {
    throw new UserError(`${file}: expected a reward module that loads, it failed with: ${messageOf(error)}`);
  }
  if (typeof module.default !== "function")
    throw new UserError(
      `${file}: expected a default export (completions) => (number | null)[], found ${typeof module.default}. ${"default" in module ? "Export a function" : 'Add "export default"'}.`,
    );
  return module.default as RewardFunction;
}

/**
 * Runs every reward function over the completions of a group, each on copies of its own.
 * A function that throws, is late, or returns anything but one finite number or null for each
 * completion gives null and an entry "<function>: <type>: <message>" in `rewardErrors`.
 * @param timeoutMs time of one call; what arrives later is nobody's
 */
export async function scoreTexts(
  completions: readonly ScoredText[],
  rewards: readonly Reward[],
  timeoutMs = DEFAULT_TIMEOUT_MS,
): Promise<Pick<Completion, "rewards" | "rewardErrors" | "outcome">[]> {
  const columns: Score[][] = [];
  for (const { score } of rewards) columns.push(await scoresOf(score, completions, timeoutMs));
  return completions.map(({ text, finishReason, answer }, i) => ({
    rewards: Object.fromEntries(
      rewards.map(({ name }, f) => {
        const value = columns[f]![i]!;
        return [name, typeof value === "string" ? null : value];
      }),
    ),
    rewardErrors: rewards.flatMap(({ name }, f) => {
      const value = columns[f]![i];
      return typeof value === "string" ? [`${name}: ${value}`] : [];
    }),
    outcome: outcomeOf(text, finishReason, answer),
  }));
}

const DEFAULT_TIMEOUT_MS = 60_000;
/** Longer messages of user code are cut: they travel, and are shown in a line. */
const LONGEST_MESSAGE = 500;

/** A reward, or a failure in words. */
type Score = number | null | string;

function failure(thrown: unknown): string {
  const said = typeof thrown === "string" ? thrown : inspect(thrown);
  const text = thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : `Error: ${said}`;
  return text.length > LONGEST_MESSAGE ? `${text.slice(0, LONGEST_MESSAGE)}…` : text;
}

async function scoresOf(
  score: RewardFunction,
  completions: readonly ScoredText[],
  timeoutMs: number,
): Promise<Score[]> {
  const all = (thrown: unknown): Score[] => completions.map(() => failure(thrown));
  let returned: unknown;
  try {
    returned = await withTimeout(async () => score(completions.map(copyOf)), timeoutMs);
  } catch (error) {
    return all(error);
  }
  if (!Array.isArray(returned) || returned.length !== completions.length) {
    const found = Array.isArray(returned) ? `${returned.length} entries` : typeof returned;
    return all(new TypeError(`expected an array of ${completions.length} rewards, found ${found}`));
  }
  // Array.from: a hole is a value that is missing, which map would pass over
  return Array.from(returned as unknown[], (value) => {
    if (value === null) return null;
    if (typeof value !== "number" || !Number.isFinite(value))
      return failure(new TypeError(`expected a finite number or null, found ${inspect(value)}`));
    if (Math.abs(value) > MAX_REWARD)
      return failure(new RangeError(`expected a reward of at most ${MAX_REWARD} in size, found ${value}`));
    return value;
  });
}

const copyOf = (completion: ScoredText): ScoredText => ({ ...completion, ids: completion.ids.slice() });

/** @throws Error when the call takes longer; how it ends then is ignored */
async function withTimeout<T>(call: () => Promise<T>, timeoutMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const error = new Error(`no answer within ${timeoutMs / 1000} s (reward.timeout_seconds)`);
      error.name = "TimeoutError";
      reject(error);
    }, timeoutMs);
  });
  try {
    return await Promise.race([call(), late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Scores a group of completions of one problem: what the actor adds to the sampled tokens.
 * @param completions ids include the stop token when finishReason is "stop"
 */
export function scoreGroup(
  tokenizer: Tokenizer,
  rewards: readonly Reward[],
  problem: { readonly question: string; readonly answer: string },
  completions: readonly { readonly ids: Int32Array; readonly finishReason: FinishReason }[],
  timeoutMs?: number,
): Promise<Pick<Completion, "rewards" | "rewardErrors" | "outcome">[]> {
  const { question, answer } = problem;
  const texts = completions.map(({ ids, finishReason }) => {
    const text = completionText(tokenizer, { ids, finishReason });
    return { text, ids, question, answer, finishReason };
  });
  return scoreTexts(texts, rewards, timeoutMs);
}

/**
 * The weighted sum of a completion's rewards, nulls left out; null when none applies
 * (TRL GRPOTrainer: `nansum` of rewards × weights).
 */
export function totalReward(
  rewards: Readonly<Record<string, number | null>>,
  functions: readonly Pick<Reward, "name" | "weight">[],
): number | null {
  let total: number | null = null;
  for (const { name, weight } of functions) {
    const value = rewards[name];
    if (value !== null && value !== undefined) total = (total ?? 0) + weight * value;
  }
  return total;
}
