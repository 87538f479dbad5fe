/**
 * Padding-free layout: a microbatch is one list of N tokens, all prompts once, then completions.
 * Only attention needs rectangles; the index arrays here say which packed row goes where, and back.
 * Legend: G groups, R completions per group, P prompt and C completion length (padded to the most),
 * Hq query heads, Hk key/value heads, E = Hq / Hk.
 */

export interface SequenceGroup {
  /** [≥ 1] */
  readonly promptIds: Int32Array;
  /** Each [≥ 1] tokens. */
  readonly completions: readonly Int32Array[];
}

export interface PackedBatch {
  /** [N] token ids and their rotary positions. */
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  /** [M] every completion token, group by group, row by row. */
  readonly targets: Int32Array;
  /** [M] the packed row whose hidden state predicts the target. */
  readonly predictors: Int32Array;
  /** [M] index of the completion (counted over the microbatch) a target belongs to. */
  readonly rowOf: Int32Array;
  readonly numRows: number;
  /** [numRows] packed row of the last completion token; empty unless packed with `keepLast`. */
  readonly lastRows: Int32Array;
  readonly attention: AttentionPlan;
}

export interface AttentionPlan {
  readonly groups: number;
  readonly rowsPerGroup: number;
  readonly promptLength: number;
  /** 0 when no completion has an input token. */
  readonly completionLength: number;
  /** [G·Hk·E·P] rows of q viewed as [N·Hq, D], in the order (g, h, e, t). */
  readonly promptQueries: Int32Array;
  /** [G·Hk·P] rows of k (or v) viewed as [N·Hk, D], in the order (g, h, t). */
  readonly promptKeys: Int32Array;
  /** [G·Hk·R·E·C] in the order (g, h, r, e, t). */
  readonly completionQueries: Int32Array;
  /** [G·Hk·R·C] in the order (g, h, r, t). */
  readonly completionKeys: Int32Array;
  /** [N·Hq], [N·Hk]: the way back, out of prompt and completion rectangles joined. */
  readonly queriesBack: Int32Array;
  readonly keysBack: Int32Array;
  /** [P, P] additive causal mask of prompts (right-padded, so causality hides the padding). */
  readonly promptBias: Float32Array;
  /** [G, 1, C, P + C] additive mask of completions: real prompt tokens, then causal. */
  readonly completionBias: Float32Array;
  /** [G·Hk·E·P] and [G·Hk·R·E·C]: 1 for the query of a real token, 0 for padding. */
  readonly promptReal: Float32Array;
  readonly completionReal: Float32Array;
}

const MASKED = -1e9;

interface Extents {
  readonly G: number;
  readonly R: number;
  readonly P: number;
  readonly C: number;
  readonly numTokens: number;
  readonly numTargets: number;
  readonly numRows: number;
}

/** Leaves out a completion's last token, unless the value after it is needed (`keepLast`). */
export function packGroups(
  groups: readonly SequenceGroup[],
  heads: { numHeads: number; numKvHeads: number },
  keepLast = false,
): PackedBatch {
  const inputLength = (completion: Int32Array): number => completion.length - (keepLast ? 0 : 1);
  const extents = extentsOf(groups, inputLength);
  const { numTokens, numTargets, numRows } = extents;
  const ids = new Int32Array(numTokens);
  const positions = new Int32Array(numTokens);
  const targets = new Int32Array(numTargets);
  const predictors = new Int32Array(numTargets);
  const rowOf = new Int32Array(numTargets);
  const lastRows = new Int32Array(keepLast ? numRows : 0);
  let token = 0;
  const add = (values: Int32Array, from: number): void => {
    ids.set(values, token);
    for (let t = 0; t < values.length; t++) positions[token++] = from + t;
  };
  const lastOfPrompt = groups.map(({ promptIds }) => {
    add(promptIds, 0);
    return token - 1;
  });
  let target = 0;
  let row = 0;
  groups.forEach(({ promptIds, completions }, g) => {
    for (const completion of completions) {
      for (let t = 0; t < completion.length; t++, target++) {
        targets[target] = completion[t]!;
        predictors[target] = t === 0 ? lastOfPrompt[g]! : token + t - 1;
        rowOf[target] = row;
      }
      add(completion.subarray(0, inputLength(completion)), promptIds.length);
      if (keepLast) lastRows[row] = token - 1;
      row++;
    }
  });
  const attention = attentionPlan(groups, heads, extents, inputLength);
  return { ids, positions, targets, predictors, rowOf, numRows, lastRows, attention };
}

function extentsOf(groups: readonly SequenceGroup[], inputLength: (completion: Int32Array) => number): Extents {
  let [R, P, C, numTokens, numTargets, numRows] = [1, 1, 0, 0, 0, 0];
  for (const { promptIds, completions } of groups) {
    P = Math.max(P, promptIds.length);
    R = Math.max(R, completions.length);
    numTokens += promptIds.length;
    numRows += completions.length;
    for (const completion of completions) {
      C = Math.max(C, inputLength(completion));
      numTokens += inputLength(completion);
      numTargets += completion.length;
    }
  }
  return { G: groups.length, R, P, C, numTokens, numTargets, numRows };
}

/** Index arrays between packed tokens and the rectangles that attention computes in. */
function attentionPlan(
  groups: readonly SequenceGroup[],
  { numHeads: Hq, numKvHeads: Hk }: { numHeads: number; numKvHeads: number },
  { G, R, P, C, numTokens }: Extents,
  inputLength: (completion: Int32Array) => number,
): AttentionPlan {
  const E = Hq / Hk;
  const promptQueries = new Int32Array(G * Hq * P);
  const promptKeys = new Int32Array(G * Hk * P);
  const completionQueries = new Int32Array(G * Hq * R * C);
  const completionKeys = new Int32Array(G * Hk * R * C);
  const queriesBack = new Int32Array(numTokens * Hq);
  const keysBack = new Int32Array(numTokens * Hk);
  const promptReal = new Float32Array(promptQueries.length);
  const completionReal = new Float32Array(completionQueries.length);
  let token = 0;
  groups.forEach(({ promptIds }, g) => {
    for (let t = 0; t < promptIds.length; t++, token++) {
      for (let h = 0; h < Hk; h++) {
        const key = (g * Hk + h) * P + t;
        promptKeys[key] = token * Hk + h;
        keysBack[token * Hk + h] = key;
        for (let e = 0; e < E; e++) {
          const query = ((g * Hk + h) * E + e) * P + t;
          promptReal[query] = 1;
          promptQueries[query] = token * Hq + h * E + e;
          queriesBack[token * Hq + h * E + e] = query;
        }
      }
    }
  });
  groups.forEach(({ completions }, g) => {
    completions.forEach((completion, r) => {
      for (let t = 0; t < inputLength(completion); t++, token++) {
        for (let h = 0; h < Hk; h++) {
          const key = ((g * Hk + h) * R + r) * C + t;
          completionKeys[key] = token * Hk + h;
          keysBack[token * Hk + h] = promptKeys.length + key;
          for (let e = 0; e < E; e++) {
            const query = (((g * Hk + h) * R + r) * E + e) * C + t;
            completionReal[query] = 1;
            completionQueries[query] = token * Hq + h * E + e;
            queriesBack[token * Hq + h * E + e] = promptQueries.length + query;
          }
        }
      }
    });
  });
  return {
    groups: G,
    rowsPerGroup: R,
    promptLength: P,
    completionLength: C,
    promptQueries,
    promptKeys,
    completionQueries,
    completionKeys,
    queriesBack,
    keysBack,
    ...attentionBiases(groups, P, C),
    promptReal,
    completionReal,
  };
}

/** Additive masks: causality, and the real tokens of prompts of unequal length. */
function attentionBiases(
  groups: readonly SequenceGroup[],
  P: number,
  C: number,
): Pick<AttentionPlan, "promptBias" | "completionBias"> {
  const promptBias = new Float32Array(P * P);
  for (let t = 0; t < P; t++) promptBias.fill(MASKED, t * P + t + 1, (t + 1) * P);
  const completionBias = new Float32Array(groups.length * C * (P + C));
  groups.forEach(({ promptIds }, g) => {
    for (let t = 0; t < C; t++) {
      const start = (g * C + t) * (P + C);
      completionBias.fill(MASKED, start + promptIds.length, start + P);
      completionBias.fill(MASKED, start + P + t + 1, start + P + C);
    }
  });
  return { promptBias, completionBias };
}

/** Input tokens a group takes in a packed batch (its prompt counted once). */
export const groupTokens = (group: SequenceGroup): number =>
  group.completions.reduce((sum, completion) => sum + completion.length - 1, group.promptIds.length);

/**
 * Cuts a batch into microbatches of at most `maxTokens`; a larger single group stands alone.
 * Returns indices into `groups`, by longest completion, so that attention has little padding.
 */
export function microbatches(groups: readonly SequenceGroup[], maxTokens: number): number[][] {
  const longest = groups.map(({ completions }) => Math.max(...completions.map((completion) => completion.length)));
  const order = groups.map((_, i) => i).sort((a, b) => longest[a]! - longest[b]! || a - b);
  const batches: number[][] = [];
  let room = 0;
  for (const i of order) {
    const tokens = groupTokens(groups[i]!);
    if (batches.length === 0 || tokens > room) {
      batches.push([]);
      room = maxTokens;
    }
    batches.at(-1)!.push(i);
    room -= tokens;
  }
  return batches;
}
