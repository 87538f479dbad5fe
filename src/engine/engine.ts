/**
 * The rollout engine on ONNX Runtime: continuous batching over the segment graph.
 *
 * Each `step` fills free places with rows of queued groups (prefill), runs one segment of all rows
 * in flight, and hands out the groups that are complete. Token ids in, token ids and logprobs out:
 * it knows no text, rewards or sockets.
 *
 * Buffers: a run reads its feeds in place and blocks this thread until it returns, and everything
 * written here is written between runs, so no fed buffer is ever written during a run.
 */
import { Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../model/config.js";
import type { PolicyVersion } from "../model/identity.js";
import { chooseBlockSize } from "./blocks.js";
import { checkRequest } from "./check-request.js";
import type {
  Engine,
  EngineOptions,
  GenerateRequest,
  GeneratedCompletion,
  GeneratedGroup,
  StreamedTokens,
} from "./engine-types.js";
import { weightsAsInitializers, weightsAsInputs, segmentSession } from "./engine-weights.js";
import type { AdaptersOnBase, EngineWeights } from "./engine-weights.js";
import { MASKED, cacheNames } from "./graph/qwen2.js";
import { GeneratedCache, PromptCache, newPlace, newValues, valuesOf } from "./kv-cache.js";
import type { Place, Prompt } from "./kv-cache.js";
import { PREFILL_SCORES } from "./limits.js";
import { fillUniforms } from "./noise.js";

/** One completion. */
interface Row {
  readonly group: Group;
  readonly completion: number;
  /** Tokens it may have at most. */
  readonly limit: number;
  readonly ids: number[];
  readonly logprobs: number[];
  /** Most probable token at each position; stays empty unless the request asks. */
  readonly top: { readonly ids: number[]; readonly logprobs: number[] };
  /** Tokens already reported by `streamed`. */
  reported: number;
  /** Whether it has, or had, a place in the batch. */
  started: boolean;
  finished: "stop" | "length" | undefined;
  /** Where its generated keys and values are. */
  readonly place: Place;
}

interface Group {
  readonly request: GenerateRequest;
  readonly submittedAt: number;
  rows: Row[];
  /** Keys and values of the prompt's tokens but the last, which is the first one to be decoded. */
  readonly prompt: Prompt;
  queuedMs: number;
  prefillMs: number;
  decodeMs: number;
}

export class OrtEngine implements Engine {
  private readonly config: ModelConfig;
  private readonly options: EngineOptions;
  private readonly weights: EngineWeights;
  /** Groups with rows that have not started; the first may be active already. */
  private queue: Group[] = [];
  /** Groups with rows that have started, and not all finished. */
  private active: Group[] = [];
  private loaded: PolicyVersion | undefined;
  private busy = false;
  private readonly cache: GeneratedCache;
  private readonly prompts: PromptCache;

  private constructor(config: ModelConfig, options: EngineOptions, weights: EngineWeights) {
    this.config = config;
    this.options = options;
    this.weights = weights;
    this.cache = new GeneratedCache(config, weights.dtype);
    this.prompts = new PromptCache(config, weights.dtype);
  }

  /**
   * Weights come with the first `load`: whole policies, or with LoRA adapters alone.
   * @param lora adapters, and the folder of the base they are trained on
   * @throws UserError when the base or the device cannot be used
   */
  static async create(
    config: ModelConfig,
    options: EngineOptions,
    lora: AdaptersOnBase | null = null,
  ): Promise<OrtEngine> {
    const initializers = options.device === "cuda" || options.dtype === "float16";
    const weights = await (initializers ? weightsAsInitializers : weightsAsInputs)(config, options, lora);
    return new OrtEngine(config, options, weights);
  }

  get version(): PolicyVersion {
    if (this.loaded === undefined) throw new Error("the engine has no weights yet: call load first");
    return this.loaded;
  }

  get pending(): number {
    const queued = this.queue.filter((group) => !this.active.includes(group));
    return queued.length + this.active.reduce((sum, group) => sum + group.rows.length, 0);
  }

  async load(packed: Float32Array, iteration: number): Promise<PolicyVersion> {
    if (this.busy || this.active.length > 0) throw new Error("weights may only change while no row is in flight");
    const expected = this.weights.size;
    if (packed.length !== expected) {
      throw new Error(`published weights have ${packed.length} elements, expected ${expected}`);
    }
    this.busy = true;
    try {
      this.loaded = { iteration, sha256: await this.weights.load(packed) };
      return this.loaded;
    } finally {
      this.busy = false;
    }
  }

  submit(request: GenerateRequest): void {
    checkRequest(request, this.config, this.options);
    const group: Group = {
      request,
      submittedAt: performance.now(),
      rows: [],
      prompt: { length: request.promptIds.length - 1, parts: [] },
      queuedMs: 0,
      prefillMs: 0,
      decodeMs: 0,
    };
    for (let completion = 0; completion < request.groupSize; completion++) {
      const limit = request.forced?.[completion]?.length ?? request.sampling.maxNewTokens;
      const finished = limit === 0 ? "length" : undefined;
      const empty = { ids: [], logprobs: [], top: { ids: [], logprobs: [] }, reported: 0 };
      group.rows.push({ group, completion, limit, ...empty, started: false, finished, place: newPlace() });
    }
    this.queue.push(group);
  }

  /**
   * Safe in the middle of a run too: what a segment holds of a row that left is never read again.
   */
  cancel(requestId: string, completion?: number): void {
    const is = (group: Group): boolean => group.request.requestId === requestId;
    if (completion !== undefined) {
      const row = [...this.active, ...this.queue].find(is)?.rows[completion];
      if (row !== undefined) row.finished ??= "length";
      return;
    }
    this.active = this.active.filter((group) => !is(group));
    this.queue = this.queue.filter((group) => !is(group));
  }

  streamed(): StreamedTokens[] {
    return this.active
      .flatMap((group) => (group.request.stream === true ? group.rows : []))
      .filter((row) => row.reported < row.ids.length)
      .map((row) => {
        const from = row.reported;
        row.reported = row.ids.length;
        return { requestId: row.group.request.requestId, completion: row.completion, ...tokensOf(row, from) };
      });
  }

  async step(): Promise<GeneratedGroup[]> {
    const version = this.version;
    if (this.busy) throw new Error("step was called again before it returned");
    this.busy = true;
    try {
      await this.admit();
      if (this.active.some((group) => group.rows.some(inFlight))) await this.segment();
    } finally {
      this.busy = false;
    }
    const complete = this.active.filter((group) => !group.rows.some(unfinished));
    this.active = this.active.filter((group) => group.rows.some(unfinished));
    if (this.active.length === 0) {
      this.cache.clear();
      this.prompts.clear();
    }
    return complete.map((group) => generatedGroup(group, version));
  }

  async dispose(): Promise<void> {
    await this.weights.dispose();
  }

  /**
   * Starts as many queued rows as there are free places, and prefills the prompts of groups whose
   * first rows they are.
   */
  private async admit(): Promise<void> {
    let free = this.options.maxRows - this.active.reduce((sum, group) => sum + group.rows.filter(inFlight).length, 0);
    const admitted: Group[] = [];
    const now = performance.now();
    for (let next = this.queue[0]; next !== undefined && free > 0; next = this.queue[0]) {
      if (!this.active.includes(next)) {
        next.queuedMs = now - next.submittedAt;
        this.active.push(next);
        admitted.push(next);
      }
      const waiting = next.rows.filter((row) => !row.started && unfinished(row));
      for (const row of waiting.slice(0, free)) row.started = true;
      if (waiting.length > free) break;
      free -= waiting.length;
      this.queue.shift();
    }

    const heads = this.config.numHeads;
    const sorted = admitted
      .filter((group) => group.prompt.length > 0)
      .sort((a, b) => b.prompt.length - a.prompt.length);
    while (sorted.length > 0) {
      const longest = sorted[0]!.prompt.length;
      await this.prefill(sorted.splice(0, Math.max(1, Math.floor(PREFILL_SCORES / (heads * longest * longest)))));
    }
  }

  /** Computes the prompts of `groups`, of which the first is the longest. */
  private async prefill(groups: readonly Group[]): Promise<void> {
    const begin = performance.now();
    const { numLayers, numKvHeads, headDim } = this.config;
    const length = groups[0]!.prompt.length;
    const ids = new BigInt64Array(groups.length * length);
    groups.forEach((group, p) => {
      for (let t = 0; t < group.prompt.length; t++) ids[p * length + t] = BigInt(group.request.promptIds[t]!);
    });
    const feeds = { ...this.weights.feeds, ids: new Tensor("int64", ids, [groups.length, length]) };
    const outputs = await this.weights.sessions.prefill.run(feeds);
    for (const [p, group] of groups.entries()) {
      const size = group.prompt.length * headDim;
      for (let layer = 0; layer < numLayers; layer++) {
        for (const name of Object.values(cacheNames("prompt", layer))) {
          const all = valuesOf(outputs[name]!); // [Hkv, P, length, D]
          const own = newValues(this.weights.dtype, numKvHeads * size);
          for (let head = 0; head < numKvHeads; head++) {
            const from = (head * groups.length + p) * length * headDim;
            own.set(all.subarray(from, from + size), head * size);
          }
          group.prompt.parts.push(own);
        }
      }
    }
    const prefillMs = performance.now() - begin;
    for (const group of groups) group.prefillMs = prefillMs;
  }

  /** Decodes up to `segmentLength` tokens for every row in flight. */
  private async segment(): Promise<void> {
    const begin = performance.now();
    const S = this.options.segmentLength;
    const { rows, blocks, blockRows, rowPlaces } = this.arrange();
    const R = rows.length;
    const promptLength = this.prompts.arrange(blocks.map((group) => group.prompt));
    const slots = this.cache.arrange(rows.map((row) => row.place));
    const stopWidth = Math.max(1, ...rows.map((row) => stopIdsOf(row).length));
    const columns = promptLength + slots + S;
    const mask = new Float32Array(R * columns);
    const token = new BigInt64Array(R);
    const position = new BigInt64Array(R);
    const budget = new BigInt64Array(R);
    const stopIds = new BigInt64Array(R * stopWidth).fill(-1n);
    const inverseTemperature = new Float32Array(R).fill(1);
    const greedy = new Uint8Array(R);
    const anyArgmax = rows.some(({ group: { request } }) => request.top === true || request.sampling.temperature === 0);
    const uniforms = new Float32Array(S * R);
    const forced = new BigInt64Array(S * R).fill(-1n);
    rows.forEach((row, r) => {
      const prefix = row.group.prompt.length;
      mask.fill(MASKED, r * columns + prefix, r * columns + promptLength + row.place.start);
      const { request } = row.group;
      token[r] = BigInt(row.ids.at(-1) ?? request.promptIds[prefix]!);
      position[r] = BigInt(prefix + row.ids.length);
      budget[r] = BigInt(row.limit - row.ids.length);
      stopIdsOf(row).forEach((id, k) => (stopIds[r * stopWidth + k] = BigInt(id)));
      const { temperature } = request.sampling;
      if (temperature === 0) greedy[r] = 1;
      else inverseTemperature[r] = 1 / temperature;
      const given = request.forced?.[row.completion];
      if (given === undefined) fillUniforms(uniforms, R, r, S, request.seed, row.completion, row.ids.length);
      else for (let s = 0; s < S; s++) forced[s * R + r] = BigInt(given[row.ids.length + s] ?? -1);
    });
    const steps = Math.min(S, Math.max(...rows.map((row) => row.limit - row.ids.length)));
    const outputs = await segmentSession(this.weights.sessions, R).run({
      ...this.weights.feeds,
      ...this.prompts.feeds,
      ...this.cache.feeds,
      block_rows: new Tensor("int64", blockRows, [blocks.length, blockRows.length / blocks.length]),
      row_places: new Tensor("int64", rowPlaces, [R, 1]),
      steps: new Tensor("int64", BigInt64Array.of(BigInt(steps)), []),
      mask: new Tensor("float32", mask, [R, 1, columns]),
      token: new Tensor("int64", token, [R, 1]),
      position: new Tensor("int64", position, [1, R]),
      budget: new Tensor("int64", budget, [R, 1]),
      stop_ids: new Tensor("int64", stopIds, [R, stopWidth]),
      inverse_temperature: new Tensor("float32", inverseTemperature, [R, 1]),
      greedy: new Tensor("bool", greedy, [R, 1]),
      any_argmax: new Tensor("bool", new Uint8Array(Number(anyArgmax)), [Number(anyArgmax)]),
      uniforms: new Tensor("float32", uniforms, [S, R, 1]),
      forced: new Tensor("int64", forced, [S, R, 1]),
    });

    const tokens = outputs["tokens"]!.data as BigInt64Array;
    const logprobs = outputs["logprobs"]!.data as Float32Array;
    const topTokens = outputs["top_tokens"]!.data as BigInt64Array;
    const topLogprobs = outputs["top_logprobs"]!.data as Float32Array;
    const stepsRun = tokens.length / R;
    rows.forEach((row, r) => {
      const stops = stopIdsOf(row);
      for (let s = 0; s < stepsRun && inFlight(row); s++) {
        const id = Number(tokens[s * R + r]);
        row.ids.push(id);
        row.logprobs.push(logprobs[s * R + r]!);
        if (row.group.request.top === true) {
          row.top.ids.push(Number(topTokens[s * R + r]));
          row.top.logprobs.push(topLogprobs[s * R + r]!);
        }
        if (stops.includes(id)) row.finished = "stop";
        else if (row.ids.length === row.limit) row.finished = "length";
      }
    });
    this.cache.append(outputs, stepsRun);
    const decodeMs = performance.now() - begin;
    for (const group of this.active) group.decodeMs += decodeMs;
  }

  /**
   * Rows of the next segment, group by group, and the blocks in which they read their prompts (see
   * graph/segment.ts).
   */
  private arrange() {
    const groups = this.active.map((group) => ({ group, rows: group.rows.filter(inFlight) }));
    const m = chooseBlockSize(groups.map(({ rows }) => rows.length));
    const rows: Row[] = [];
    const blocks: Group[] = [];
    const blockRows: bigint[] = [];
    const rowPlaces: bigint[] = [];
    for (const { group, rows: own } of groups) {
      for (let from = 0; from < own.length; from += m) {
        blocks.push(group);
        for (let i = from; i < from + m; i++) {
          const row = own[i];
          if (row !== undefined) {
            rowPlaces.push(BigInt(blockRows.length));
            rows.push(row);
          }
          blockRows.push(BigInt(rows.length - 1));
        }
      }
    }
    return { rows, blocks, blockRows: BigInt64Array.from(blockRows), rowPlaces: BigInt64Array.from(rowPlaces) };
  }
}

function unfinished(row: Row): boolean {
  return row.finished === undefined;
}

function inFlight(row: Row): boolean {
  return row.started && unfinished(row);
}

/** A forced row is measured to its end, whatever it contains. */
function stopIdsOf(row: Row): readonly number[] {
  return row.group.request.forced === undefined ? row.group.request.sampling.stopIds : [];
}

/** What a row has generated, from token `from` on. */
function tokensOf(row: Row, from = 0): Pick<GeneratedCompletion, "ids" | "logprobs" | "top"> {
  return {
    ids: Int32Array.from(row.ids.slice(from)),
    logprobs: Float32Array.from(row.logprobs.slice(from)),
    ...(row.group.request.top === true && {
      top: {
        ids: Int32Array.from(row.top.ids.slice(from)),
        logprobs: Float32Array.from(row.top.logprobs.slice(from)),
      },
    }),
  };
}

function generatedGroup(group: Group, version: PolicyVersion): GeneratedGroup {
  const { request, queuedMs, prefillMs, decodeMs } = group;
  const completions = group.rows.map((row): GeneratedCompletion => {
    const endsWithStop = request.sampling.stopIds.includes(row.ids.at(-1) ?? -1);
    return {
      ...tokensOf(row),
      finishReason: endsWithStop ? "stop" : "length",
      version,
    };
  });
  return { requestId: request.requestId, completions, timing: { queuedMs, prefillMs, decodeMs } };
}
