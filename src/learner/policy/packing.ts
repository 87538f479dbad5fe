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

export type PackedBatch = ReturnType<typeof packGroups>;
export type AttentionPlan = ReturnType<typeof attentionPlan>;

const MASKED = -1e9;

type Extents = ReturnType<typeof extentsOf>;

/** Leaves out a completion's last token, unless the value after it is needed (`keepLast`). */
export function packGroups(
  groups: readonly SequenceGroup[],
  heads: { numHeads: number; numKvHeads: number },
  keepLast = false,
) {
  const inputLength = (completion: Int32Array): number => completion.length - (keepLast ? 0 : 1);
  const extents = extentsOf(groups, inputLength);
  const { numTokens, numTargets, numRows } = extents;
  /** [N] token ids and their rotary positions. */
  const [ids, positions] = [new Int32Array(numTokens), new Int32Array(numTokens)];
  /** [M] every completion token, group by group, row by row. */
  const targets = new Int32Array(numTargets);
  /** [M] the packed row whose hidden state predicts the target. */
  const predictors = new Int32Array(numTargets);
  /** [M] index of the completion (counted over the microbatch) a target belongs to. */
  const rowOf = new Int32Array(numTargets);
  /** [numRows] packed row of the last completion token; empty unless packed with `keepLast`. */
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

function extentsOf(groups: readonly SequenceGroup[], inputLength: (completion: Int32Array) => number) {
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
) {
  const E = Hq / Hk;
  /** Rows of q viewed as [N·Hq, D] are in the order (g, h, r, e, t), of k or v in (g, h, r, t). */
  const rectangle = (rows: number, width: number) => ({
    rows,
    width,
    queries: new Int32Array(G * Hq * rows * width),
    keys: new Int32Array(G * Hk * rows * width),
    /** 1 for the query of a real token, 0 for padding. */
    real: new Float32Array(G * Hq * rows * width),
  });
  const [prompts, completions] = [rectangle(1, P), rectangle(R, C)];
  /** [N·Hq], [N·Hk]: the way back, out of prompt and completion rectangles joined. */
  const [queriesBack, keysBack] = [new Int32Array(numTokens * Hq), new Int32Array(numTokens * Hk)];
  let token = 0;
  /** Places the next tokens in row r of a group, in a rectangle that lies behind others. */
  const place = (to: typeof prompts, length: number, g: number, r: number, keysBefore = 0, queriesBefore = 0): void => {
    for (let t = 0; t < length; t++, token++) {
      for (let h = 0; h < Hk; h++) {
        const row = (g * Hk + h) * to.rows + r;
        const key = row * to.width + t;
        to.keys[key] = token * Hk + h;
        keysBack[token * Hk + h] = keysBefore + key;
        for (let e = 0; e < E; e++) {
          const query = (row * E + e) * to.width + t;
          to.real[query] = 1;
          to.queries[query] = token * Hq + h * E + e;
          queriesBack[token * Hq + h * E + e] = queriesBefore + query;
        }
      }
    }
  };
  groups.forEach(({ promptIds }, g) => place(prompts, promptIds.length, g, 0));
  const before = [prompts.keys.length, prompts.queries.length] as const;
  groups.forEach((group, g) =>
    group.completions.forEach((completion, r) => place(completions, inputLength(completion), g, r, ...before)),
  );
  return {
    groups: G,
    rowsPerGroup: R,
    promptLength: P,
    /** 0 when no completion has an input token. */
    completionLength: C,
    promptQueries: prompts.queries,
    promptKeys: prompts.keys,
    completionQueries: completions.queries,
    completionKeys: completions.keys,
    queriesBack,
    keysBack,
    ...attentionBiases(groups, P, C),
    promptReal: prompts.real,
    completionReal: completions.real,
  };
}

/** Additive masks: causality, and the real tokens of prompts of unequal length. */
function attentionBiases(groups: readonly SequenceGroup[], P: number, C: number) {
  /** [size, size]: right-padded, so causality hides the padding. */
  const causal = (size: number): Float32Array => {
    const bias = new Float32Array(size * size);
    for (let t = 0; t < size; t++) bias.fill(MASKED, t * size + t + 1, (t + 1) * size);
    return bias;
  };
  const isPadded = groups.some(({ promptIds }) => promptIds.length < P);
  const paddingBias = isPadded ? new Float32Array(groups.length * P) : null;
  groups.forEach(({ promptIds }, g) => paddingBias?.fill(MASKED, g * P + promptIds.length, (g + 1) * P));
  return {
    /** [P, P], of prompts. */
    promptBias: causal(P),
    /** [G, P], of completions to their prompt; null where no prompt is padded. */
    paddingBias,
    /** [C, C], of completions to themselves. */
    ownBias: causal(C),
  };
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
