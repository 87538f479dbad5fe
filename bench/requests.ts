/**
 * What all sides of a comparison understand (ours.ts, peers/torch_side.py; peers/llama_side.py the
 * rollout alone).
 */

export interface RolloutRequest {
  readonly op: "rollout";
  /** Hugging Face folder; llama.cpp: GGUF file. */
  readonly model: string;
  /** Token ids of each prompt, answered `groupSize` times. */
  readonly prompts: readonly (readonly number[])[];
  readonly groupSize: number;
  /** Completions in flight. */
  readonly rows: number;
  readonly maxNewTokens: number;
  /** 1, or 0 for greedy. */
  readonly temperature: 0 | 1;
  /** Empty: every completion has exactly `maxNewTokens` tokens. */
  readonly stopIds: readonly number[];
  readonly padId: number;
  readonly seed: number;
  /** Ours alone; the peers compute in float32. */
  readonly dtype?: "float32" | "int8";
}

export interface RolloutReply {
  readonly seconds: number;
  /** Tokens of all completions, each counted up to and including its stop token. */
  readonly tokens: number;
  /** Prompt by prompt. */
  readonly completions: readonly (readonly number[])[];
  /** Log-probabilities of their tokens; from our side only. */
  readonly logprobs?: readonly (readonly number[])[];
}

export interface LearnerGroup {
  readonly promptIds: readonly number[];
  readonly completions: readonly (readonly number[])[];
  /** As they were sampled with, of each token (torch's step looks at no behaviour policy). */
  readonly logprobs: readonly (readonly number[])[];
  readonly rewards: readonly number[];
}

/** One optimizer step of GRPO (dapo denominator, no KL) with AdamW. */
export interface LearnerRequest {
  readonly op: "learner";
  readonly model: string;
  /** PEFT folder of the adapters to train; null = all weights. */
  readonly adapter: string | null;
  readonly groups: readonly LearnerGroup[];
  readonly entropyCoef: number;
  /** Ours alone; the first request of a process decides. */
  readonly backend: "tensorflow" | "wasm";
  /** Ours alone; the peers compute in float32. */
  readonly matmul: "float32" | "bfloat16";
  /** torch alone (ours packs by a budget of tokens). */
  readonly layout: "padded" | "packed";
  readonly rowsPerMicrobatch: number;
  readonly padId: number;
}

export interface LearnerReply {
  readonly seconds: number;
  /** Before clipping: both sides must find the same at the first step. */
  readonly gradNorm: number;
}

/**
 * What the machine can do, in one of the runtimes: a product of two matrices [size, size], or a sum
 * of two vectors [size].
 */
export interface MachineRequest {
  readonly op: "machine";
  readonly measure: "product" | "triad";
  readonly runtime: "onnxruntime" | "tensorflow" | "torch";
  readonly size: number;
}

export interface MachineReply {
  /** Time of one product, or of one pass over the vectors. */
  readonly seconds: number;
}

export type Request = RolloutRequest | LearnerRequest | MachineRequest;
