/** The policy's passes without a gradient; completions are numbered group by group. */
import type { Tensor, Tensor1D } from "@tensorflow/tfjs";
import type { RunConfig } from "../../config/schema.js";
import type { TF } from "../backend/backend.js";
import type { TrainableModel } from "./model.js";
import { microbatches, type SequenceGroup } from "./packing.js";
import {
  completionLogprobs,
  completionValues,
  disposeBatch,
  hiddenStates,
  prepareMicrobatch,
  type Microbatch,
} from "./policy.js";
import { type NamedWeights } from "./named-weights.js";

export interface Training {
  readonly tf: TF;
  readonly run: RunConfig;
  readonly model: TrainableModel;
}

export type Evaluated = Awaited<ReturnType<typeof evaluateAll>>;

/** Yields microbatches (which the consumer disposes) with the numbers of their completions. */
export function* packedParts(
  { tf, run, model }: Training,
  sequences: readonly SequenceGroup[],
  groups: readonly number[],
  keepLast = false,
): Generator<{ prepared: Microbatch; completions: number[] }> {
  let next = 0;
  const firstOf = sequences.map(({ completions }) => (next += completions.length) - completions.length);
  const chosen = groups.map((g) => sequences[g]!);
  for (const indices of microbatches(chosen, run.tokens_per_microbatch)) {
    const members = indices.map((i) => chosen[i]!);
    const completions = indices.flatMap((i) => chosen[i]!.completions.map((_, c) => firstOf[groups[i]!]! + c));
    yield { prepared: prepareMicrobatch(tf, model.shape, members, keepLast), completions };
  }
}

/** @returns [T] nats for each completion of the chosen groups; those of other groups are empty */
export async function logprobsOf(
  training: Training,
  weights: NamedWeights,
  sequences: readonly SequenceGroup[],
  groups: readonly number[] = sequences.map((_, g) => g),
): Promise<Float32Array[]> {
  const out = sequences.flatMap(({ completions }) => completions.map(() => new Float32Array(0)));
  for (const { prepared, completions } of packedParts(training, sequences, groups)) {
    const flat = await read(training, weights, prepared, (hidden) =>
      logprobColumn(training, weights, hidden, prepared),
    );
    scatter(flat, completions, sequences, out);
    disposeBatch(training.tf, prepared);
  }
  return out;
}

/** `logprobsOf` under the policy as it is now. */
export async function policyLogprobs(
  training: Training,
  sequences: readonly SequenceGroup[],
  groups: readonly number[],
): Promise<Float32Array[]> {
  const { tf, model } = training;
  const views = model.views();
  const out = await logprobsOf(training, model.policy(views), sequences, groups);
  tf.dispose([...views.values()]);
  return out;
}

/** `logprobsOf` under published weights, such as an earlier version's. */
export async function publishedLogprobs(
  training: Training,
  published: Float32Array,
  sequences: readonly SequenceGroup[],
): Promise<Float32Array[]> {
  const { tf, model } = training;
  const flat = tf.tensor1d(published);
  const views = model.viewsOfPublished(flat);
  const out = await logprobsOf(training, model.policy(views), sequences);
  tf.dispose([...views.values(), flat]);
  return out;
}

/**
 * Values of every token, and where asked for its log-probabilities in nats.
 * @param needsLogprobs false leaves out the product with the vocabulary: `logprobs` is null
 */
export async function evaluateAll(training: Training, sequences: readonly SequenceGroup[], needsLogprobs: boolean) {
  const { tf, run, model } = training;
  const keepLast = run.bootstrap_truncated;
  const all = sequences.flatMap(({ completions }) => completions);
  const logprobs = needsLogprobs ? all.map(() => new Float32Array(0)) : null;
  /** [T] value before each token, for each completion. */
  const values = all.map(() => new Float32Array(0));
  /** [completions] value after the last token; zeros unless values are bootstrapped. */
  const lastValues = new Float32Array(all.length);
  const views = model.views();
  const [policy, trunk]: NamedWeights[] = [model.policy(views), model.value(views)];
  const head: NamedWeights = { tensors: views, lora: null };
  const groups = sequences.map((_, g) => g);
  for (const { prepared, completions } of packedParts(training, sequences, groups, keepLast)) {
    const logprobsFrom = (hidden: Tensor): Tensor1D => logprobColumn(training, policy!, hidden, prepared);
    const valuesFrom = (hidden: Tensor): Tensor1D => {
      const column = completionValues(tf, head, hidden, prepared.predictors);
      if (prepared.lastRows === null) return column;
      return tf.concat1d([column, completionValues(tf, head, hidden, prepared.lastRows)]);
    };
    const numTargets = prepared.packed.targets.length;
    let valuePart: Float32Array;
    if (logprobs === null) {
      valuePart = await read(training, trunk!, prepared, valuesFrom);
    } else {
      const flat = await read(training, policy!, prepared, (hidden) =>
        model.separateValue ? logprobsFrom(hidden) : tf.concat1d([logprobsFrom(hidden), valuesFrom(hidden)]),
      );
      valuePart = model.separateValue ? await read(training, trunk!, prepared, valuesFrom) : flat.subarray(numTargets);
      scatter(flat, completions, sequences, logprobs);
    }
    scatter(valuePart, completions, sequences, values);
    if (keepLast) completions.forEach((c, i) => (lastValues[c] = valuePart[numTargets + i]!));
    disposeBatch(tf, prepared);
  }
  tf.dispose([...views.values()]);
  return { logprobs, values, lastValues };
}

/** Splits [M, 2] into log-probabilities [M] and entropies [M]. */
export const columns = (tf: TF, both: Tensor): [logprobs: Tensor1D, entropies: Tensor1D] =>
  tf.split(both, 2, 1).map((column) => tf.reshape(column, [-1])) as [Tensor1D, Tensor1D];

const logprobColumn = (
  { tf, run, model }: Training,
  weights: NamedWeights,
  hidden: Tensor,
  prepared: Microbatch,
): Tensor1D => columns(tf, completionLogprobs(tf, model.shape, weights, hidden, prepared, run.temperature))[0];

async function read(
  { tf, model }: Training,
  weights: NamedWeights,
  prepared: Microbatch,
  of: (hidden: Tensor) => Tensor1D,
): Promise<Float32Array> {
  const result = tf.tidy(() => of(hiddenStates(tf, model.shape, weights, prepared)));
  const values = (await result.data()) as Float32Array;
  result.dispose();
  return values;
}

/** Cuts a microbatch's flat values into completions and puts each at its number. */
function scatter(
  flat: Float32Array,
  numbers: readonly number[],
  sequences: readonly SequenceGroup[],
  into: Float32Array[],
): void {
  const lengths = sequences.flatMap(({ completions }) => completions.map(({ length }) => length));
  let at = 0;
  for (const c of numbers) into[c] = flat.slice(at, (at += lengths[c]!));
}
