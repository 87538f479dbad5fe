/** Continuous batching: which completions wait or run, and where each stands. Knows no tensors. */
import type { PolicyVersion } from "../model/identity.js";
import type { GenerateRequest, GeneratedCompletion, GeneratedGroup, StreamedTokens } from "./engine-types.js";
import type { Tensor } from "onnxruntime-node";
import type { Place, Prompt } from "./kv-cache.js";

/** Most attention scores of one prefill run, over heads and prompts: 64 MiB as float32. */
export const PREFILL_SCORES = 2 ** 24;

/** A completion that waits, is in flight, or waits for the others of its group. */
export interface OpenCompletion {
  readonly group: OpenGroup;
  readonly index: number;
  readonly limit: number;
  readonly ids: number[];
  readonly logprobs: number[];
  /** Most probable token at each position; stays empty unless the request asks. */
  readonly top: { readonly ids: number[]; readonly logprobs: number[] };
  reported: number;
  /** Whether it has, or had, a place in the batch. */
  started: boolean;
  finished: "stop" | "length" | undefined;
  readonly place: Place;
}

export interface OpenGroup {
  readonly request: GenerateRequest;
  readonly submittedAt: number;
  completions: OpenCompletion[];
  /** Keys and values of the prompt's tokens but the last, which is the first one to be decoded. */
  readonly prompt: Prompt;
  queuedMs: number;
  prefillMs: number;
  decodeMs: number;
}

/** Rows of a segment, and the blocks in which they read their prompts. */
export type Arranged = ReturnType<Batch["arrange"]>;

/** Keys and values between segments, in the form that the decode graph takes. */
export interface SegmentCache {
  /** Inputs of the next run of these rows; what the last run appended is taken in. */
  feeds(arranged: Arranged): Record<string, Tensor>;
  /** Takes the outputs of a run of `steps` steps over the rows of the last `feeds`. */
  append(outputs: Record<string, Tensor>, steps: number): void;
  clear(): void;
}

export class Batch {
  readonly #maxRows: number;
  /** Groups with completions that have not started; the first may be active already. */
  #queue: OpenGroup[] = [];
  /** Groups with completions that have started, and not all finished. */
  #active: OpenGroup[] = [];

  /** @param maxRows most completions in flight */
  constructor(maxRows: number) {
    this.#maxRows = maxRows;
  }

  /** Completions of active groups, and groups that have not begun. */
  get pending(): number {
    const queued = this.#queue.filter((group) => !this.#active.includes(group));
    return queued.length + this.#active.reduce((sum, group) => sum + group.completions.length, 0);
  }

  get active(): readonly OpenGroup[] {
    return this.#active;
  }

  add(request: GenerateRequest): void {
    const group: OpenGroup = {
      request,
      submittedAt: performance.now(),
      completions: [],
      prompt: { length: request.promptIds.length - 1, parts: [] },
      queuedMs: 0,
      prefillMs: 0,
      decodeMs: 0,
    };
    for (let index = 0; index < request.groupSize; index++) {
      const limit = request.forced?.[index]?.length ?? request.sampling.maxNewTokens;
      const finished = limit === 0 ? "length" : undefined;
      const empty = { ids: [], logprobs: [], top: { ids: [], logprobs: [] }, reported: 0, started: false };
      group.completions.push({ group, index, limit, ...empty, finished, place: { row: -1, start: 0 } });
    }
    this.#queue.push(group);
  }

  /** See Engine.cancel. What a segment holds of a completion that left is never read again. */
  cancel(requestId: string, index?: number): void {
    const is = (group: OpenGroup): boolean => group.request.requestId === requestId;
    if (index !== undefined) {
      const completion = [...this.#active, ...this.#queue].find(is)?.completions[index];
      if (completion !== undefined) completion.finished ??= "length";
      return;
    }
    this.#active = this.#active.filter((group) => !is(group));
    this.#queue = this.#queue.filter((group) => !is(group));
  }

  streamed(): StreamedTokens[] {
    return this.#active
      .flatMap((group) => (group.request.stream === true ? group.completions : []))
      .filter((completion) => completion.reported < completion.ids.length)
      .map((completion) => {
        const from = completion.reported;
        completion.reported = completion.ids.length;
        const { requestId } = completion.group.request;
        return { requestId, completion: completion.index, ...tokensOf(completion, from) };
      });
  }

  /** Starts as many queued completions as there are free places. @returns groups that began now */
  admit(): OpenGroup[] {
    const inUse = this.#active.reduce((sum, group) => sum + group.completions.filter(inFlight).length, 0);
    let free = this.#maxRows - inUse;
    const admitted: OpenGroup[] = [];
    const now = performance.now();
    for (let next = this.#queue[0]; next !== undefined && free > 0; next = this.#queue[0]) {
      if (!this.#active.includes(next)) {
        next.queuedMs = now - next.submittedAt;
        this.#active.push(next);
        admitted.push(next);
      }
      const waiting = next.completions.filter((completion) => !completion.started && unfinished(completion));
      for (const completion of waiting.slice(0, free)) completion.started = true;
      if (waiting.length > free) break;
      free -= waiting.length;
      this.#queue.shift();
    }
    return admitted;
  }

  /** Places the next segment's completions by group, in blocks that read their prompt together. */
  arrange() {
    const groups = this.#active.map((group) => ({ group, own: group.completions.filter(inFlight) }));
    const m = chooseBlockSize(groups.map(({ own }) => own.length));
    const rows: OpenCompletion[] = [];
    const blocks: OpenGroup[] = [];
    const blockRows: bigint[] = [];
    const rowPlaces: bigint[] = [];
    for (const { group, own } of groups) {
      for (let from = 0; from < own.length; from += m) {
        blocks.push(group);
        for (let i = from; i < from + m; i++) {
          const completion = own[i];
          if (completion !== undefined) {
            rowPlaces.push(BigInt(blockRows.length));
            rows.push(completion);
          }
          blockRows.push(BigInt(rows.length - 1));
        }
      }
    }
    return { rows, blocks, blockRows: BigInt64Array.from(blockRows), rowPlaces: BigInt64Array.from(rowPlaces) };
  }

  takeComplete(): OpenGroup[] {
    const complete = this.#active.filter((group) => !group.completions.some(unfinished));
    this.#active = this.#active.filter((group) => group.completions.some(unfinished));
    return complete;
  }
}

const unfinished = (completion: OpenCompletion): boolean => completion.finished === undefined;

export const inFlight = (completion: OpenCompletion): boolean => completion.started && unfinished(completion);

/** Ids that end a completion; a forced one is measured to its end, whatever it contains. */
export function stopIdsOf({ group: { request } }: OpenCompletion): readonly number[] {
  return request.forced === undefined ? request.sampling.stopIds : [];
}

/** Adds a decoded token, with the most probable one at its position. */
export function addToken(
  completion: OpenCompletion,
  id: number,
  logprob: number,
  top: { readonly id: number; readonly logprob: number },
): void {
  completion.ids.push(id);
  completion.logprobs.push(logprob);
  if (completion.group.request.top === true) {
    completion.top.ids.push(top.id);
    completion.top.logprobs.push(top.logprob);
  }
  if (stopIdsOf(completion).includes(id)) completion.finished = "stop";
  else if (completion.ids.length === completion.limit) completion.finished = "length";
}

/** What a completion has generated, from token `from` on. */
function tokensOf(
  { ids, logprobs, top, group }: OpenCompletion,
  from = 0,
): Pick<GeneratedCompletion, "ids" | "logprobs" | "top"> {
  const part = (one: { readonly ids: number[]; readonly logprobs: number[] }) => ({
    ids: Int32Array.from(one.ids.slice(from)),
    logprobs: Float32Array.from(one.logprobs.slice(from)),
  });
  return { ...part({ ids, logprobs }), ...(group.request.top === true && { top: part(top) }) };
}

/** The answer to a request. @param version of the weights that sampled all its tokens */
export function generatedGroup(group: OpenGroup, version: PolicyVersion): GeneratedGroup {
  const { request, queuedMs, prefillMs, decodeMs } = group;
  const completions = group.completions.map((completion): GeneratedCompletion => {
    const endsWithStop = request.sampling.stopIds.includes(completion.ids.at(-1) ?? -1);
    return { ...tokensOf(completion), finishReason: endsWithStop ? "stop" : "length", version };
  });
  return { requestId: request.requestId, completions, timing: { queuedMs, prefillMs, decodeMs } };
}

/** Packing a block's prompt for a product costs as much as attention of this many rows (AVX2). */
const PACK_ROWS = 8;

/** The block size m with the cheapest prompt attention; `alive` counts each group's completions. */
export function chooseBlockSize(alive: readonly number[]): number {
  const cost = (m: number): number => (m + PACK_ROWS) * alive.reduce((sum, rows) => sum + Math.ceil(rows / m), 0);
  const sizes = Array.from({ length: Math.max(1, ...alive) }, (_, i) => i + 1);
  return sizes.reduce((best, m) => (cost(m) < cost(best) ? m : best));
}
